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

url='' host='' database_file=''

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

VALUES='--url --host --database-file --source'
take() {
  case $1 in --url) url=$2 ;; --host) host=$2 ;; --database-file) database_file=$2 ;; --source) source=$2 ;; esac
}

write_settings() {
  settings=$ETC/coordinator.env
  if [ -e "$settings" ]; then say "Keeping $settings"; return; fi
  [ -n "$dry_run" ] && { say "would write: $settings (0600)"; return; }
  database=''
  [ -z "$database_file" ] || database=$(cat "$database_file")
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
  enable_unit certctl-coordinator
}
service_do() { if alive; then do_ systemctl "$1" certctl-coordinator; fi; }
log_command() { echo 'journalctl -u certctl-coordinator'; }
# Waits until the coordinator answers the administrator's own key.
comes_up() {
  [ -z "$dry_run" ] && alive || return 0
  say 'Waiting for the coordinator to answer …'
  wait_for 90 status
}
status() (
  set -a
  # shellcheck source=/dev/null
  . "$ETC/coordinator.env"
  here=${CERTCTL_SERVER_HOST:-127.0.0.1}
  [ "$here" != 0.0.0.0 ] || here=127.0.0.1
  CERTCTL_SERVER_URL=${CERTCTL_SERVER_URL:-https://$here:${CERTCTL_SERVER_PORT:-8443}}
  "$BASE/current/bin/certctl" status
)

install_() {
  case $url in '' | https://*) ;; *) die '--url: must be an https URL, like https://certctl.example.com:8443' ;; esac
  [ -z "$database_file" ] || [ -r "$database_file" ] || die "--database-file: $database_file cannot be read"
  [ "$(manager)" = systemd ] || die 'needs systemd; elsewhere see docs/installation.md, by hand'
  install_program
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
  ask_purge "Remove configuration and all data ($ETC/coordinator.env, $STATE) as well? Nothing brings them back."
  service_do stop || true
  remove_unit certctl-coordinator
  do_ rm -rf "$BASE" /usr/local/bin/certctl-coordinator /usr/local/bin/certctl
  if [ -n "$purge" ]; then
    do_ rm -rf "$STATE" "$ETC/coordinator.env"
    do_ rmdir "$ETC" 2>/dev/null || true
    remove_account
    say 'Removed.'
  else
    say "Removed. $ETC/coordinator.env and $STATE stay; --uninstall --purge removes them too."
  fi
}

parse "$@"
[ "$(system)" = Linux ] || die "$(system) is not supported; Linux with systemd is"
act
