# What both installers have in common; plain POSIX sh, read by them. Before that they set: BASE, where the versions of the
# program are; ETC, STATE, UNITS; ACCOUNT; PROGRAM; LAUNCHERS, pairs of a command and the module that it runs; EXTRAS of
# the package; HERE, the folder of the script. They define usage; VALUES, the options that have a value, and take for
# these; install_, uninstall, install_service, service_do, comes_up and log_command.
# shellcheck shell=sh disable=SC2034,SC2154

source='' action=install dry_run='' purge='' start=yes version=''

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
do_() { if [ -n "$dry_run" ]; then say "would run: $*"; else "$@"; fi; }

# --- options ---------------------------------------------------------------------------------------------------------

# Reads what both know; of an option among VALUES the script takes the value itself.
parse() {
  while [ $# -gt 0 ]; do
    case " $VALUES " in
      *" $1 "*)
        [ $# -ge 2 ] || die "$1 needs a value; see --help"
        take "$1" "$2"
        shift ;;
      *)
        case $1 in
          --upgrade) action=upgrade ;; --rollback) action=rollback ;; --uninstall) action=uninstall ;;
          --dry-run) dry_run=yes ;; --purge) purge=yes ;; --no-start) start='' ;;
          -h | --help) usage; exit 0 ;;
          *) die "unknown option $1; see --help" ;;
        esac ;;
    esac
    shift
  done
}
act() {
  [ "$(id -u)" = 0 ] || [ -n "$dry_run" ] || die 'needs root, to make an account and a service; with --dry-run it does not'
  case $action in install) install_ ;; upgrade) upgrade ;; rollback) rollback ;; uninstall) uninstall ;; esac
}

# --- the host --------------------------------------------------------------------------------------------------------

system() { uname -s; }
has() { command -v "$1" >/dev/null 2>&1; }
family() {
  [ "$(system)" = Linux ] || { system; return; }
  # shellcheck source=/dev/null
  (ID='' ID_LIKE=''; [ ! -r /etc/os-release ] || . /etc/os-release; printf ' %s %s ' "$ID" "$ID_LIKE")
}
manager() {
  if [ "$(system)" = Darwin ]; then echo launchd
  elif [ -d /run/systemd/system ] || [ -d /lib/systemd/system ] || [ -d /usr/lib/systemd/system ]; then echo systemd
  elif has rc-update; then echo openrc
  else echo none; fi
}
# Whether services can be started now: not in a chroot, and not while an image is built.
alive() {
  case $(manager) in
    systemd) [ -d /run/systemd/system ] ;; openrc) [ -e /run/openrc/softlevel ] ;; launchd) true ;; *) false ;;
  esac
}

python_ok() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
find_python() {
  for python in python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
    if has "$python" && python_ok "$python"; then command -v "$python"; return; fi
  done
  return 1
}
install_packages() { # the first argument that the system's package manager knows is enough for Python
  case $(family) in
    *debian* | *ubuntu*)
      do_ apt-get -qq update
      do_ env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" >/dev/null ;;
    *rhel* | *fedora* | *centos*) do_ dnf --quiet --assumeyes install "$@" ;;
    *suse*) do_ zypper --quiet --non-interactive install "$@" ;;
    *alpine*) do_ apk add --quiet "$@" ;;
    *) return 1 ;;
  esac
}
python_packages() {
  case $(family) in
    *ubuntu*) echo 'python3-venv python3.12-venv python3.11-venv' ;; *debian*) echo 'python3-venv' ;;
    *rhel* | *fedora* | *centos*) echo 'python3.12 python3.11' ;; *suse*) echo 'python312 python311' ;;
    *alpine*) echo 'python3' ;; *) echo '' ;;
  esac
}
need_python() {
  find_python && return
  for package in $(python_packages); do
    say "Installing $package …" >&2
    install_packages "$package" >&2 || continue
    find_python && return
  done
  [ -n "$dry_run" ] && { echo python3; return; }
  die "needs Python 3.11 or newer with venv; install it, or give --source an archive of 'make agent-binary', which needs none"
}

make_account() {
  id "$ACCOUNT" >/dev/null 2>&1 && return
  say "Making the account $ACCOUNT …"
  if [ "$(system)" = Darwin ]; then
    number=$(($(dscl . -list /Users UniqueID | awk '$2 > 200 && $2 < 400 {print $2}' | sort -n | tail -1) + 1))
    do_ dscl . -create "/Groups/$ACCOUNT" PrimaryGroupID "$number"
    do_ dscl . -create "/Users/$ACCOUNT" UniqueID "$number"
    do_ dscl . -create "/Users/$ACCOUNT" PrimaryGroupID "$number"
    do_ dscl . -create "/Users/$ACCOUNT" NFSHomeDirectory "$STATE"
    do_ dscl . -create "/Users/$ACCOUNT" UserShell /usr/bin/false
  elif has useradd; then
    shell=/usr/sbin/nologin; [ -e "$shell" ] || shell=/sbin/nologin
    do_ useradd --system --user-group --home-dir "$STATE" --no-create-home --shell "$shell" "$ACCOUNT"
  else
    do_ addgroup -S "$ACCOUNT"
    do_ adduser -S -D -H -h "$STATE" -s /sbin/nologin -G "$ACCOUNT" "$ACCOUNT"
  fi
}

remove_account() {
  id "$ACCOUNT" >/dev/null 2>&1 || return 0
  if [ "$(system)" = Darwin ]; then do_ dscl . -delete "/Users/$ACCOUNT"; do_ dscl . -delete "/Groups/$ACCOUNT"
  elif has userdel; then do_ userdel "$ACCOUNT"; else do_ deluser "$ACCOUNT"; fi
}
enable_unit() {
  if alive; then do_ systemctl daemon-reload; do_ systemctl --quiet enable "$1"
  else
    do_ mkdir -p "$UNITS/multi-user.target.wants"
    do_ ln -sf "../$1.service" "$UNITS/multi-user.target.wants/$1.service"
  fi
}
remove_unit() {
  if alive; then do_ systemctl --quiet disable "$1" || true; fi
  do_ rm -rf "$UNITS/$1.service" "$UNITS/$1.service.d" "$UNITS/multi-user.target.wants/$1.service"
  if alive; then do_ systemctl daemon-reload; fi
}

# --- the program -----------------------------------------------------------------------------------------------------

default_source() {
  [ -n "$source" ] && return
  source="certctl[$EXTRAS]"
  if [ -f "$HERE/../pyproject.toml" ]; then source=$(cd "$HERE/.." && pwd); fi
}
# Makes $BASE/versions/N with bin/$PROGRAM in it; sets $made and $version.
make_version() {
  number=1
  while [ -e "$BASE/versions/$number" ]; do number=$((number + 1)); done
  made=$BASE/versions/$number
  say "Installing $source into $made …"
  do_ mkdir -p "$BASE/versions"
  case $source in
    *.tar.gz)
      do_ mkdir "$made"
      do_ tar -xzf "$source" -C "$made" --strip-components=1 || { rm -rf "$made"; die "$source could not be unpacked"; } ;;
    *)
      python=$(need_python)
      requirement=$source
      if [ -e "$source" ]; then requirement="${source}[$EXTRAS]"; fi
      # Written and built in a folder beside it: what is half made is never named like a version.
      do_ rm -rf "$made.part"
      if ! do_ "$python" -m venv "$made.part" ||
        ! do_ "$made.part/bin/python" -m pip install --quiet --disable-pip-version-check "$requirement"; then
        rm -rf "$made.part"
        die "$requirement could not be installed; nothing was changed"
      fi
      do_ mv "$made.part" "$made"
      # A virtual environment's scripts name its interpreter, which has just moved.
      [ -n "$dry_run" ] || write_launchers "$made" ;;
  esac
  if [ -z "$dry_run" ] && ! version=$("$made/bin/$PROGRAM" --version 2>&1); then
    rm -rf "$made"
    die "the new program does not start: $version; nothing was changed"
  fi
}
write_launchers() {
  for pair in $LAUNCHERS; do
    printf '#!/bin/sh\nexec "%s/bin/python" -m %s "$@"\n' "$1" "${pair#*=}" >"$1/bin/${pair%%=*}"
    chmod 0755 "$1/bin/${pair%%=*}"
  done
}
current() { readlink "$BASE/current" 2>/dev/null || true; }
switch_to() { do_ ln -sfn "$1" "$BASE/current"; }
forget_old() { # all but the current version and the one before it
  for folder in "$BASE"/versions/*; do
    if [ "$folder" != "$1" ] && [ "$folder" != "$2" ]; then do_ rm -rf "$folder"; fi
  done
}

# Makes what the service needs: its account, its folders, and a version if there is none.
install_program() {
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
}

# --- small things -----------------------------------------------------------------------------------------------------

quoted() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"$`]/\\&/g')"; }
unit_file() { # where the unit files lie: beside this script, or in the checkout
  for folder in "$HERE/.." "$HERE"; do if [ -e "$folder/$1" ]; then echo "$folder/$1"; return; fi; done
  die "$1 is missing; it comes with this script, in the same archive or checkout"
}
ask() { # VARIABLE QUESTION: only from a person at a terminal
  eval "value=\$$1"
  [ -z "$value" ] && [ -t 0 ] && [ -z "$dry_run" ] || return 0
  printf '%s ' "$2" >&2
  read -r value
  eval "$1=\$value"
}

ask_purge() { # QUESTION: only a person at a terminal is asked
  [ -z "$purge" ] && [ -t 0 ] && [ -z "$dry_run" ] || return 0
  printf '%s [y/N] ' "$1" >&2
  read -r answer
  case $answer in y | Y | yes) purge=yes ;; esac
}
wait_for() { # SECONDS COMMAND…: until the command succeeds
  patience=${CERTCTL_INSTALL_WAIT:-$1} waited=0
  shift
  while [ "$waited" -lt "$patience" ]; do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 1
    waited=$((waited + 1))
  done
  return 1
}
upgrade() {
  before=$(current)
  [ -n "$before" ] || die 'there is nothing to upgrade; install first'
  default_source
  make_version
  switch_to "$made"
  install_service
  service_do restart
  if ! comes_up; then
    say 'The new version does not come up; going back …'
    switch_to "$before"
    service_do restart
    do_ rm -rf "$made"
    die "the upgrade was undone; $before runs as before; the cause: $(log_command)"
  fi
  forget_old "$made" "$before"
  say "Upgraded${version:+ to $version}; back with: ${0##*/} --rollback"
}
rollback() {
  now=$(current)
  before=''
  for folder in "$BASE"/versions/*; do
    if [ -d "$folder" ] && [ "$folder" != "$now" ]; then before=$folder; fi
  done
  [ -n "$before" ] || die 'there is no other version to go back to'
  switch_to "$before"
  service_do restart
  comes_up || die "$before does not come up either; see: $(log_command)"
  say "Back at $before ($([ -n "$dry_run" ] || "$BASE/current/bin/$PROGRAM" --version))"
}
