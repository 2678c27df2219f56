# shellcheck shell=bash
# Sourced by run_*.sh and .ci/run: the virtual environment in .venv, made from a hashed lock file.
#
#   setup_venv runtime|test [s3] [azure] [iceberg]   makes or brings up to date what
#                                          requirements/<name>.txt of each name lists
#   extras_for ARGUMENT...                 prints the extras that a command line needs
#   VENV                                   directory of the virtual environment
#
# Copies of the lock files inside .venv, written last, say that the environment is complete; without
# that of runtime or test, or when it differs, the environment is made anew. They are removed before
# anything is installed. So a set-up that was cut leaves nothing behind that the next start would
# trust.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

setup_venv() {
  _is_complete "$@" && return
  mkdir -p "$ROOT/logs" 2>/dev/null && [[ -w $ROOT && -w $ROOT/logs ]] ||
    _setup_fail "$ROOT can't be written; set-up makes .venv and logs there"

  local python
  python=$(_find_python) || exit 1
  trap '_setup_interrupted' INT TERM
  _take_lock "$python"
  # Another start may have done it while this one waited.
  _is_complete "$@" || _install "$python" "$@"
  exec 9>&-
  trap - INT TERM
}

extras_for() {
  local argument s3="" azure="" iceberg=""
  for argument; do
    case $argument in
      *s3://* | --embedded_store | --embedded_store=*) s3=s3 ;;
      *az://*) azure=azure ;;
      --table | --table=* | table) iceberg=iceberg ;;
    esac
  done
  printf '%s' "${s3:+$s3$'\n'}" "${azure:+$azure$'\n'}" "${iceberg:+$iceberg$'\n'}"
}

_setup_interrupted() {
  printf '\n%s: set-up was interrupted; the next start begins it anew\n' "${0##*/}" >&2
  exit 130
}

_setup_fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

_is_complete() {
  local name
  [[ -x $VENV/bin/python && $(cat "$VENV/made-at" 2>/dev/null) == "$ROOT" ]] || return
  for name; do
    cmp -s "$ROOT/requirements/$name.txt" "$VENV/$name.txt" || return
  done
}

_find_python() {
  local candidate without_venv=""
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
    without_venv=${without_venv:-$candidate}
  done
  if [[ -n $without_venv ]]; then
    local package
    package=$("$without_venv" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    _setup_fail "$(command -v "$without_venv") has no venv module;" \
      "install it, for example with: apt-get install $package"
  fi
  _setup_fail "no Python 3.10 to 3.13 found on PATH; install one, with its venv module"
}

# Holds a lock on descriptor 9 until it is closed; the kernel frees it when this shell dies.
_take_lock() {
  exec 9>"$ROOT/logs/setup.lock"
  "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
  printf 'Another start is setting up; waiting for it ...\n' >&2
  "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

_install() {
  local python=$1 lock_name=$2 log=$ROOT/logs/setup.log name
  shift 2
  if ! _is_complete "$lock_name"; then
    # The test lock holds the runtime lock's versions and more, so it can go on top of it.
    if ! { [[ $lock_name == test ]] && _is_complete runtime; }; then
      printf 'Making a virtual environment with %s ...\n' "$("$python" --version 2>&1)" >&2
      rm -rf "$VENV"
      "$python" -m venv "$VENV" >"$log" 2>&1 ||
        _setup_fail "the virtual environment can't be made: $(tail -n 1 "$log") (see $log)"
    fi
    set -- "$lock_name" "$@"
  fi

  local -a complete=() missing=()
  for name in runtime test s3 azure iceberg; do
    ! _is_complete "$name" || complete+=("$name")
  done
  for name; do
    _is_complete "$name" || missing+=(-r "$ROOT/requirements/$name.txt")
  done
  rm -f "$VENV"/{runtime,test,s3,azure,iceberg}.txt

  local -a pip=("$VENV/bin/python" -m pip --no-input --disable-pip-version-check)
  if ! "${pip[@]}" install --retries 2 --progress-bar off --require-hashes \
    "${missing[@]}" 2>&1 | tee "$log" | _show_progress; then
    _setup_fail "$(_why_pip_failed "$log")"
  fi
  if [[ ${1-} == "$lock_name" ]]; then
    "${pip[@]}" install --quiet --no-deps --no-build-isolation --editable "$ROOT" >>"$log" 2>&1 ||
      _setup_fail "the project itself can't be installed: $(tail -n 1 "$log") (see $log)"
  fi

  printf '%s\n' "$ROOT" >"$VENV/made-at"
  [[ $lock_name != test ]] || complete+=(runtime s3 azure iceberg) # it holds them
  for name in "${complete[@]}" "$@" "$lock_name"; do
    cp "$ROOT/requirements/$name.txt" "$VENV/$name.txt"
  done
}

# Reads pip's output; tells how far it is, on one changing line of a terminal or now and then. While
# pip is silent, a line every 15 s says that it is at work.
_show_progress() {
  local line count=0 status begin=$SECONDS
  while true; do
    status=0
    IFS= read -r -t 15 line || status=$?
    if ((status > 128)); then
      [[ -t 2 ]] && printf '\r\033[K' >&2
      printf 'Still at work on %d Python packages, %d s ...\n' "$count" $((SECONDS - begin)) >&2
      continue
    fi
    ((status == 0)) || break
    case $line in
      Collecting*)
        count=$((count + 1))
        if [[ -t 2 ]]; then
          printf '\r\033[KFetching Python packages: %d' "$count" >&2
        elif ((count % 25 == 0)); then
          printf 'Fetching Python packages: %d\n' "$count" >&2
        fi
        ;;
      "Installing collected packages"*)
        [[ -t 2 ]] && printf '\r\033[K' >&2
        printf 'Installing %d Python packages (about a minute) ...\n' "$count" >&2
        ;;
    esac
  done
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
}

_why_pip_failed() {
  local reason
  if grep -qE 'connection broken|Could not fetch URL|No matching distribution' "$1"; then
    reason="Python packages can't be fetched; check the network (pip's proxy and index settings apply)"
  else
    reason="Python packages can't be installed: $(grep -m 1 '^ERROR' "$1" || tail -n 1 "$1")"
  fi
  printf '%s (see %s)' "$reason" "$1"
}
