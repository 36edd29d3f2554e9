#!/bin/sh
# Installs, upgrades and removes certctl-coordinator and the command certctl on Linux with systemd. Plain POSIX sh.
# What it makes: docs/installation.md. `install-coordinator.sh --help` lists the options.
set -eu
umask 022

BASE=/opt/certctl
ETC=/etc/certctl
STATE=/var/lib/certctl
ACCOUNT=certctl
PROGRAM=certctl-coordinator
LAUNCHERS='certctl-coordinator=coordinator.main certctl=console.main'
EXTRAS=coordinator,console
UNITS=/etc/systemd/system
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=common.sh
. "$HERE/common.sh"

url='' host='' source='' database_file='' action=install dry_run='' purge='' start=yes version=''

usage() {
  cat <<'END'
usage: install-coordinator.sh [OPTIONS]      installs, or does the rest of an installation that was interrupted
       install-coordinator.sh --upgrade [--source SOURCE]
       install-coordinator.sh --rollback     back to the version before the last upgrade
       install-coordinator.sh --uninstall [--purge]

  --url URL             how agents and people reach it, like https://certctl.example.com:8443
  --host ADDRESS        where it listens; default: 0.0.0.0 with --url, else 127.0.0.1
  --database-file FILE  a file with the URL of a PostgreSQL 15 or newer; without it there is one of its own in the data folder
  --source SOURCE       a checkout, a wheel or a requirement for pip;
                        default: the checkout that this script lies in, else certctl of the package index
  --no-start            installs and starts nothing
  --dry-run             says what would be done and does nothing
  --purge               with --uninstall: removes configuration, data and account as well. Nothing brings them back
END
}

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --url | --host | --database-file | --source)
        [ $# -ge 2 ] || die "$1 needs a value; see --help"
        case $1 in --url) url=$2 ;; --host) host=$2 ;; --database-file) database_file=$2 ;; --source) source=$2 ;; esac
        shift ;;
      --upgrade) action=upgrade ;; --rollback) action=rollback ;; --uninstall) action=uninstall ;;
      --dry-run) dry_run=yes ;; --purge) purge=yes ;; --no-start) start='' ;;
      -h | --help) usage; exit 0 ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
}

write_settings() {
  settings=$ETC/coordinator.env
  if [ -e "$settings" ]; then say "Keeping $settings"; return; fi
  [ -n "$dry_run" ] && { say "would write: $settings (0600)"; return; }
  database=''
  [ -z "$database_file" ] || database=$(cat "$database_file") || die "--database-file: $database_file cannot be read"
  (
    umask 077
    {
      echo "# Settings of certctl-coordinator, see docs/settings.md; restart it after a change."
      echo "CERTCTL_DATA_DIR=$STATE"
      echo "CERTCTL_SERVER_HOST=${host:-$([ -n "$url" ] && echo 0.0.0.0 || echo 127.0.0.1)}"
      [ -z "$url" ] || echo "CERTCTL_SERVER_URL=$(quoted "$url")"
      [ -z "$database" ] || echo "CERTCTL_DATABASE_URL=$(quoted "$database")"
    } >"$settings.part"
    mv "$settings.part" "$settings"
  )
}

install_service() {
  do_ cp "$(unit_file systemd/certctl-coordinator.service)" "$UNITS/certctl-coordinator.service"
  if alive; then do_ systemctl daemon-reload; do_ systemctl --quiet enable certctl-coordinator
  else
    do_ mkdir -p "$UNITS/multi-user.target.wants"
    do_ ln -sf ../certctl-coordinator.service "$UNITS/multi-user.target.wants/certctl-coordinator.service"
  fi
}
service_do() { if alive; then do_ systemctl "$1" certctl-coordinator; fi; }
log_command() { echo 'journalctl -u certctl-coordinator'; }
# Waits until the coordinator answers the administrator's own key.
comes_up() {
  [ -z "$dry_run" ] && alive || return 0
  say 'Waiting for the coordinator to answer …'
  waited=0
  while [ $waited -lt "${CERTCTL_INSTALL_WAIT:-90}" ]; do
    # shellcheck source=/dev/null
    if (set -a; . "$ETC/coordinator.env"; "$BASE/current/bin/certctl" status) >/dev/null 2>&1; then return 0; fi
    sleep 1
    waited=$((waited + 1))
  done
  return 1
}

install_() {
  case $url in '' | https://*) ;; *) die '--url: must be an https URL, like https://certctl.example.com:8443' ;; esac
  [ "$(manager)" = systemd ] || die 'needs systemd; elsewhere see docs/installation.md, by hand'
  default_source
  make_account
  do_ mkdir -p "$ETC"
  if [ ! -d "$STATE" ]; then do_ mkdir -p "$STATE"; fi
  do_ chown "$ACCOUNT:" "$STATE"
  do_ chmod 0700 "$STATE"
  if [ -z "$(current)" ]; then
    make_version
    switch_to "$made"
  fi
  for command in certctl-coordinator certctl; do do_ ln -sfn "$BASE/current/bin/$command" "/usr/local/bin/$command"; done
  write_settings
  install_service
  if [ -z "$start" ] || ! alive; then
    say 'Installed. It starts with the host, or now with: systemctl start certctl-coordinator'
    return
  fi
  service_do restart
  comes_up || die "the coordinator does not answer; see: $(log_command)"
  say "Installed and running. The administrator's key is in $STATE/admin.key, the root for agents in $STATE/tls/ca.crt;"
  say 'next: certctl enrollment-tokens create, and install-agent.sh on a host'
}
uninstall() {
  if [ -z "$purge" ] && [ -t 0 ] && [ -z "$dry_run" ]; then
    printf 'Remove configuration and all data (%s, %s) as well? Nothing brings them back. [y/N] ' "$ETC/coordinator.env" "$STATE" >&2
    read -r answer
    case $answer in y | Y | yes) purge=yes ;; esac
  fi
  service_do stop || true
  if alive; then do_ systemctl --quiet disable certctl-coordinator || true; fi
  do_ rm -rf "$UNITS/certctl-coordinator.service" "$UNITS/multi-user.target.wants/certctl-coordinator.service" "$BASE" \
    /usr/local/bin/certctl-coordinator /usr/local/bin/certctl
  if alive; then do_ systemctl daemon-reload; fi
  if [ -n "$purge" ]; then
    do_ rm -rf "$STATE" "$ETC/coordinator.env"
    do_ rmdir "$ETC" 2>/dev/null || true
    if id "$ACCOUNT" >/dev/null 2>&1; then do_ userdel "$ACCOUNT"; fi
    say 'Removed.'
  else
    say "Removed. $ETC/coordinator.env and $STATE stay; --uninstall --purge removes them too."
  fi
}

parse "$@"
[ "$(system)" = Linux ] || die "$(system) is not supported; Linux with systemd is"
[ "$(id -u)" = 0 ] || [ -n "$dry_run" ] || die 'needs root, to make an account and a service; with --dry-run it does not'
case $action in install) install_ ;; upgrade) upgrade ;; rollback) rollback ;; uninstall) uninstall ;; esac
