# What scripts of this repository share: finding a Python, and making an environment for it.
# To be sourced; `here` is the repository's folder, and `program` the name to speak under.

SUITABLE='import sys; sys.exit(sys.version_info < (3, 11))'

say() { printf '%s: %s\n' "$program" "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

can_install() { [ "$(id -u)" = 0 ] && has apt-get; }

install_packages() {
    say "installing $*"
    apt-get -qq update </dev/null >/dev/null || say "apt-get update failed; trying with what is known"
    DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" </dev/null >/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
        # Version managers put commands on the PATH that only say which version is missing.
        if has "$candidate" && "$candidate" -c "$SUITABLE" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    say "needs Python 3.11 or newer${PYTHON:+, and PYTHON=$PYTHON is none}."
    return 1
}

require_venv() {
    "$1" -c 'import ensurepip' 2>/dev/null && return
    if can_install; then
        install_packages python3-venv
    fi
    "$1" -c 'import ensurepip' 2>/dev/null && return
    say "$1 cannot make virtual environments; install python3-venv (Debian's name)."
    return 1
}

# An environment is made anew when the interpreter or anything that is installed is another one.
fingerprint() {
    "$1" - "$here" "${@:2}" <<'END'
import hashlib, pathlib, sys
root, *requirements = pathlib.Path(sys.argv[1]), *sys.argv[2:]
digest = hashlib.sha256(f"{sys.executable} {sys.version} {requirements}".encode())
files = [path for folder in ("outbox", "migrations") for path in (root / folder).rglob("*")]
for path in [root / "pyproject.toml", *sorted(files)]:
    if path.suffix in (".py", ".sql", ".toml"):
        digest.update(bytes(path.relative_to(root)) + b"\0" + path.read_bytes() + b"\0")
for path in map(pathlib.Path, requirements):
    digest.update(path.read_bytes() if path.is_file() else b"")
print(digest.hexdigest())
END
}

# make_environment FOLDER REQUIREMENT…: an environment in the repository with these installed.
make_environment() {
    local environment="$here/$1" python wanted
    shift
    python=$(find_python)
    wanted=$(fingerprint "$python" "$@")
    if [ "$(cat "$environment/made-from" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    require_venv "$python"
    say "making ${environment##*/} with $("$python" --version)"
    "$python" -m venv --clear "$environment"
    echo '*' >"$environment/.gitignore"
    "$environment/bin/python" -m pip install -q --disable-pip-version-check "$@" >&2
    echo "$wanted" >"$environment/made-from"
}
