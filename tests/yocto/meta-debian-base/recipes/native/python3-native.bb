SUMMARY = "A Python of the host with what builds wheels and runs the publisher"
LICENSE = "CLOSED"
# A virtual environment that make yocto fills: build, installer, flit_core, hatchling and others.
NATIVE_PYTHON ?= ""
PROVIDES = "python3-native"
SRC_URI = "file://oe-installer.py"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
do_install[vardepsexclude] = "NATIVE_PYTHON"
do_install () {
    install -d ${D}${bindir}/python3-native
    for name in ${bindir}/python3-native/python3 ${bindir}/nativepython3 ${bindir}/python3-native/nativepython3 ${bindir}/python3; do
        cat > ${D}$name << 'EOF'
#!/bin/sh
# PYTHONPATH: what OE's recipes install beside the interpreter, as its own Python would look there.
here=$(dirname "$(readlink -f "$0")")
case $here in */python3-native) here=$(dirname "$here") ;; esac
export PYTHONPATH=$here/../lib/python3.13/site-packages${PYTHONPATH:+:$PYTHONPATH}
export PYTHONDONTWRITEBYTECODE=1
if [ "$1 $2" = "-m installer" ]; then
    shift 2
    set -- "$here/oe-installer.py" "$@"
fi
exec @PYTHON@ "$@"
EOF
        sed -i "s|@PYTHON@|${NATIVE_PYTHON}/bin/python3|" ${D}$name
        chmod 0755 ${D}$name
    done
    install -m 0644 ${S}/oe-installer.py ${D}${bindir}
    # hatchling.bbclass looks through a directory that must not be empty.
    install -d ${D}${libdir}/python3.13/site-packages/none
    touch ${D}${libdir}/python3.13/site-packages/none/none
    ln -sf ../nativepython3 ${D}${bindir}/python3-native/python
    cat > ${D}${bindir}/pyproject-build << 'EOF'
#!/bin/sh
exec nativepython3 -m build "$@"
EOF
    chmod 0755 ${D}${bindir}/pyproject-build
}
python () {
    import json
    with open(d.expand("${COREBASE}/meta/recipes-devtools/python/python3/python3-manifest.json")) as file:
        text = file.read()
    manifest = json.loads(text[text.index("\n{") if not text.startswith("{") else 0:])
    names = [*manifest, "build", "cryptography", "flit-core", "hatchling", "installer", "pyyaml", "requests", "urllib3", "zstandard"]
    several = " ".join("python3-%s-native" % name for name in names)
    d.appendVar("PROVIDES", " " + several)
    d.appendVar("RPROVIDES:python3-native", " " + several)
}
inherit native
