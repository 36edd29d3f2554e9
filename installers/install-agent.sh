#!/bin/sh
# Installs, upgrades and removes certctl-agent on Linux (systemd, OpenRC) and macOS (launchd). Plain POSIX sh.
# What it makes: docs/installation.md. `install-agent.sh --help` lists the options.
set -eu
umask 022

BASE=/opt/certctl-agent
ETC=/etc/certctl
STATE=/var/lib/certctl-agent
ACCOUNT=certctl-agent
PROGRAM=certctl-agent
LAUNCHERS='certctl-agent=agent.main'
EXTRAS=agent
SUDOERS=/etc/sudoers.d/certctl-agent
LINK=/usr/local/bin/certctl-agent
UNITS=/etc/systemd/system
PLIST=/Library/LaunchDaemons/io.certctl.agent.plist
HERE=$(cd "$(dirname "$0")" && pwd)

# shellcheck source=common.sh
. "$HERE/common.sh"

server='' token='' token_file='' ca_sha256='' name='' targets=''

usage() {
  cat <<'END'
usage: install-agent.sh [OPTIONS]            installs, or does the rest of an installation that was interrupted
       install-agent.sh --upgrade [--source SOURCE]
       install-agent.sh --rollback           back to the version before the last upgrade
       install-agent.sh --uninstall [--purge]

  --server URL        the coordinator, like https://certctl.example.com:8443
  --token TOKEN       an enrollment token; better --token-file or CERTCTL_AGENT_BOOTSTRAP_TOKEN, which no process list shows
  --token-file FILE   a file that holds it
  --ca-sha256 HEX     SHA-256 of the coordinator's root; without it the system's own roots are trusted
  --name NAME         what this agent is called; default: the host's name
  --targets LIST      servers on this host that it looks after, between commas: nginx, apache, haproxy, caddy, traefik,
                      envoy, postfix, dovecot. For each: a folder for its certificates, and the right to check and reload it
  --source SOURCE     a checkout, a wheel, an archive of `make agent-binary`, or a requirement for pip;
                      default: the checkout that this script lies in, else certctl[agent] of the package index
  --no-start          installs and starts nothing
  --dry-run           says what would be done and does nothing
  --purge             with --uninstall: removes configuration, identity, keys and account as well
END
}

VALUES='--server --token --token-file --ca-sha256 --name --targets --source'
take() {
  case $1 in
    --server) server=$2 ;; --token) token=$2 ;; --token-file) token_file=$2 ;; --ca-sha256) ca_sha256=$2 ;;
    --name) name=$2 ;; --targets) targets=$2 ;; --source) source=$2 ;;
  esac
}

# --- configuration ---------------------------------------------------------------------------------------------------

write_settings() {
  settings=$ETC/agent.env
  if [ -e "$settings" ]; then say "Keeping $settings"; return; fi
  [ -n "$dry_run" ] && { say "would write: $settings (0600)"; return; }
  (
    umask 077
    {
      echo "# Settings of certctl-agent, see docs/settings.md; restart it after a change."
      echo "CERTCTL_SERVER_URL=$(quoted "$server")"
      echo "CERTCTL_STATE_DIR=$STATE"
      [ -z "$name" ] || echo "CERTCTL_AGENT_NAME=$(quoted "$name")"
      [ -z "$ca_sha256" ] || echo "CERTCTL_SERVER_CA_SHA256=$ca_sha256"
      [ -z "$token" ] || echo "CERTCTL_AGENT_BOOTSTRAP_TOKEN=$(quoted "$token")"
    } >"$settings.part"
    mv "$settings.part" "$settings"
  )
}

reload_of() { # NAME UNIT COMMAND…: systemd reloads a unit by itself, outside of the agent's sandbox
  unit=$1; shift
  if [ "$(manager)" = systemd ] && has systemctl; then echo "$(command -v systemctl) reload $unit"; else echo "$*"; fi
}
first_of() { for file in "$@"; do if [ -e "$file" ]; then echo "$file"; return; fi; done; echo "$1"; }
# Sets folder, check and reload of a target: commands that need root, empty for what needs none.
facts() {
  check='' reload=''
  case $1 in
    nginx)
      program=$(first_of /usr/sbin/nginx /usr/bin/nginx /usr/local/sbin/nginx) folder=/etc/nginx/certctl
      check="$program -t -q" reload=$(reload_of nginx.service "$program" -s reload) ;;
    apache)
      program=$(first_of /usr/sbin/apache2ctl /usr/sbin/httpd)
      case $program in *httpd) folder=/etc/httpd/certctl unit=httpd ;; *) folder=/etc/apache2/certctl unit=apache2 ;; esac
      check="$program -t" reload=$(reload_of $unit.service "$program" -k graceful) ;;
    haproxy)
      program=$(first_of /usr/sbin/haproxy /usr/local/sbin/haproxy) folder=/etc/haproxy/certctl
      check="$program -c -f /etc/haproxy/haproxy.cfg"
      reload=$(reload_of haproxy.service "$(first_of /usr/bin/pkill)" -USR2 -F /run/haproxy.pid haproxy) ;;
    postfix)
      folder=/etc/postfix/certctl check="$(first_of /usr/sbin/postfix) check" reload="$(first_of /usr/sbin/postfix) reload" ;;
    dovecot)
      folder=/etc/dovecot/certctl check="$(first_of /usr/bin/doveconf /usr/sbin/doveconf) -n"
      reload="$(first_of /usr/bin/doveadm /usr/sbin/doveadm) reload" ;;
    caddy | traefik | envoy) folder=/etc/$1/certctl ;;
    *) die "--targets: $1 is not known; see --help" ;;
  esac
}
each_target() { echo "$targets" | tr -s ', ' '\n' | sort -u; }
argv() { printf '%s' "$1" | sed 's/[^ ][^ ]*/"&"/g; s/ /, /g'; }
sudo_argv() { printf '["%s", "-n", %s]' "$(first_of /usr/bin/sudo /usr/local/bin/sudo)" "$(argv "$1")"; }

print_policy() {
  folders='"/etc/ssl/certctl"'
  for target in $(each_target); do facts "$target"; folders="$folders, \"$folder\""; done
  echo "# What a coordinator may ask of this host; see docs/agent.md. Restart the agent after a change."
  echo "allowed_paths = [$folders]"
  for target in $(each_target); do
    facts "$target"
    printf '\n[services.%s]\ntype = "%s"\n' "$target" "$target"
    [ -z "$check" ] || printf 'validate_action = "check-%s"\n' "$target"
    [ -z "$reload" ] || printf 'reload_action = "reload-%s"\n' "$target"
    [ -z "$check" ] || printf '\n[actions.check-%s]\nargv = %s\n' "$target" "$(sudo_argv "$check")"
    [ -z "$reload" ] || printf '\n[actions.reload-%s]\nargv = %s\n' "$target" "$(sudo_argv "$reload")"
  done
}
print_sudoers() {
  echo "# The commands that certctl-agent may run as root, word for word. Written by install-agent.sh."
  echo "Defaults:$ACCOUNT !requiretty, !lecture"
  for target in $(each_target); do
    facts "$target"
    for command in "$check" "$reload"; do
      # A comma, a colon, an equals sign and a backslash mean something here.
      [ -z "$command" ] || echo "$ACCOUNT ALL=(root) NOPASSWD: $(printf '%s' "$command" | sed 's/[,:=\\]/\\&/g')"
    done
  done
}
write_policy() {
  if [ -e "$ETC/agent.toml" ]; then
    [ -z "$targets" ] || { say "Keeping $ETC/agent.toml; for --targets $targets it has to hold:"; print_policy; }
  elif [ -n "$dry_run" ]; then
    say "would write: $ETC/agent.toml"; print_policy
  else
    print_policy >"$ETC/agent.toml.part"
    chmod 0644 "$ETC/agent.toml.part"
    mv "$ETC/agent.toml.part" "$ETC/agent.toml"
  fi
  if [ ! -d /etc/ssl/certctl ]; then do_ mkdir -p /etc/ssl/certctl; fi
  do_ chown "$ACCOUNT" /etc/ssl/certctl
  for target in $(each_target); do
    facts "$target"
    [ -d "$(dirname "$folder")" ] || die "--targets: there is no $(dirname "$folder"); is $target installed?"
    if [ ! -d "$folder" ]; then do_ mkdir "$folder"; fi
    do_ chown "$ACCOUNT" "$folder"
    # A server that reads its key as itself, not as root, finds it through its group.
    case $target in
      caddy | traefik | envoy)
        if id -g "$target" >/dev/null 2>&1; then do_ chgrp "$target" "$folder"; do_ chmod 2750 "$folder"; fi ;;
    esac
  done
  write_sudoers
}
write_sudoers() {
  [ -n "$targets" ] || return 0
  if ! has sudo; then
    say "Installing sudo …"
    install_packages sudo || die 'needs sudo, by which the agent checks and reloads servers'
  fi
  [ -n "$dry_run" ] && { say "would write: $SUDOERS"; print_sudoers; return; }
  print_sudoers >"$SUDOERS.part"
  chmod 0440 "$SUDOERS.part"
  if has visudo && ! visudo -cq -f "$SUDOERS.part"; then rm -f "$SUDOERS.part"; die 'the rules for sudo are refused by visudo'; fi
  mv "$SUDOERS.part" "$SUDOERS"
}

# --- the service -----------------------------------------------------------------------------------------------------

install_service() {
  case $(manager) in
    systemd)
      do_ cp "$(unit_file systemd/certctl-agent.service)" "$UNITS/certctl-agent.service"
      do_ mkdir -p "$UNITS/certctl-agent.service.d"
      for target in $(each_target); do
        do_ cp "$(unit_file "systemd/certctl-agent.service.d/$target.conf")" "$UNITS/certctl-agent.service.d/$target.conf"
      done
      enable_unit certctl-agent ;;
    openrc)
      do_ cp "$(unit_file installers/openrc/certctl-agent)" /etc/init.d/certctl-agent
      do_ chmod 0755 /etc/init.d/certctl-agent
      do_ rc-update --quiet add certctl-agent default ;;
    launchd)
      do_ cp "$(unit_file installers/launchd/io.certctl.agent.plist)" "$PLIST"
      do_ chmod 0644 "$PLIST" ;;
    none) say "No service manager was found; start it with: set -a; . $ETC/agent.env; exec $LINK" ;;
  esac
}
service_do() { # start, stop or restart
  alive || return 0
  case $(manager) in
    systemd) do_ systemctl "$1" certctl-agent ;;
    openrc) do_ rc-service --quiet certctl-agent "$1" ;;
    launchd)
      if [ "$1" != start ]; then do_ launchctl bootout system/io.certctl.agent 2>/dev/null || true; fi
      if [ "$1" != stop ]; then do_ launchctl bootstrap system "$PLIST"; fi ;;
  esac
}
# Waits until the agent's page says that the coordinator answers it. A host that turned the page off is believed.
comes_up() {
  [ -z "$dry_run" ] && alive || return 0
  page=$(sed -n 's/^CERTCTL_AGENT_LISTEN=//p' "$ETC/agent.env" 2>/dev/null | tr -d \" | tail -1)
  ! grep -q '^CERTCTL_AGENT_LISTEN=\(""\)\{0,1\}$' "$ETC/agent.env" 2>/dev/null || return 0
  say 'Waiting for the agent to reach the coordinator …'
  wait_for 60 env CERTCTL_AGENT_LISTEN="${page:-127.0.0.1:9465}" "$BASE/current/bin/certctl-agent" --health
}

# --- what can be done ------------------------------------------------------------------------------------------------

read_token() {
  [ -z "$token_file" ] || token=$(cat "$token_file") || die "--token-file: $token_file cannot be read"
  token=${token:-${CERTCTL_AGENT_BOOTSTRAP_TOKEN:-}}
}
install_() {
  read_token
  if [ ! -e "$ETC/agent.env" ]; then
    ask server 'URL of the coordinator (like https://certctl.example.com:8443):'
    case $server in https://*) ;; '') die '--server is required: the coordinator, like https://certctl.example.com:8443' ;;
      *) die '--server: must be an https URL, like https://certctl.example.com:8443' ;; esac
    if [ -t 0 ] && [ -z "$token" ]; then stty -echo; ask token 'Enrollment token (certctl enrollment-tokens create; not shown):'; stty echo; echo; fi
    [ -n "$token" ] || [ -d "$STATE/identity" ] || die '--token is required for a new agent; make one with: certctl enrollment-tokens create'
    ask ca_sha256 "SHA-256 of the coordinator's root (empty: the system's roots):"
    ca_sha256=$(printf '%s' "$ca_sha256" | tr -d : | tr 'A-F' 'a-f')
    case $ca_sha256 in *[!0-9a-f]*) die '--ca-sha256: must be 64 hexadecimal digits' ;; esac
  fi
  for target in $(each_target); do facts "$target"; done
  install_program
  do_ ln -sfn "$BASE/current/bin/certctl-agent" "$LINK"
  write_settings
  write_policy
  install_service
  if [ -z "$start" ] || ! alive; then
    say "Installed. It starts with the host, or now with: $(start_command)"
  else
    service_do restart
    comes_up || die "the agent does not reach the coordinator; see: $(log_command)"
    say "Installed and running; see: $(log_command)"
  fi
}
start_command() {
  case $(manager) in
    systemd) echo 'systemctl start certctl-agent' ;; openrc) echo 'rc-service certctl-agent start' ;;
    launchd) echo "launchctl bootstrap system $PLIST" ;; none) echo "$LINK" ;;
  esac
}
log_command() {
  case $(manager) in
    systemd) echo 'journalctl -u certctl-agent' ;; openrc) echo 'tail /var/log/certctl-agent.log' ;;
    launchd) echo 'tail /var/log/certctl-agent.log' ;; none) echo 'its output' ;;
  esac
}
uninstall() {
  ask_purge "Remove configuration, identity and keys ($ETC/agent.*, $STATE) as well?"
  service_do stop || true
  case $(manager) in
    systemd) remove_unit certctl-agent ;;
    openrc) do_ rc-update --quiet del certctl-agent || true; do_ rm -f /etc/init.d/certctl-agent ;;
    launchd) do_ rm -f "$PLIST" ;;
  esac
  do_ rm -rf "$BASE" "$LINK" "$SUDOERS"
  if [ -n "$purge" ]; then
    do_ rmdir /etc/ssl/certctl 2>/dev/null || true
    do_ rm -rf "$STATE" "$ETC/agent.env" "$ETC/agent.toml" /var/log/certctl-agent.log
    do_ rmdir "$ETC" 2>/dev/null || true
    remove_account
    say 'Removed. Certificates that it installed stay where they are; retire the agent with: certctl agents delete'
  else
    say "Removed. $ETC/agent.env, $ETC/agent.toml and $STATE stay; --uninstall --purge removes them too."
  fi
}

parse "$@"
case $(system) in Linux | Darwin) ;; *) die "$(system) is not supported; Linux and macOS are" ;; esac
act
