# Puts the signed release of a channel, with its apps and their images, into the root file system:
# a factory store, from which a device runs its apps at the first boot without a network.
#
# A product says which apps, by digest:
#
#   COMPOSEAPPS_PRELOAD = "web=registry.example/apps/web@sha256:..."
#
# or which release of the channel, by the digest of its document:
#
#   COMPOSEAPPS_PRELOAD = "stable@sha256:..."
#
# and, as for composeapps-conf, COMPOSEAPPS_ROOT, COMPOSEAPPS_URL and COMPOSEAPPS_CHANNEL.
#
# do_composeapps_fetch is the only task with a network. It verifies the release from the root on and
# copies all of it into DL_DIR. do_composeapps_seal makes the store of that copy; its result is
# kept in sstate. The root file system gets plain files, with no extended attributes.

inherit composeapps_sbom

COMPOSEAPPS_PRELOAD ?= ""
COMPOSEAPPS_PRELOAD[doc] = "Apps as NAME=REF@DIGEST, or one CHANNEL@DIGEST; empty for an image without apps."
COMPOSEAPPS_ROOT ?= ""
COMPOSEAPPS_ROOT[doc] = "Path of the TUF root.json that devices trust."
COMPOSEAPPS_URL ?= ""
COMPOSEAPPS_URL[doc] = "URL, or directory, of the repository."
COMPOSEAPPS_CHANNEL ?= "stable"
COMPOSEAPPS_CHANNEL[doc] = "The channel whose release has the apps."
COMPOSEAPPS_MIRRORS ?= ""
COMPOSEAPPS_MIRRORS[doc] = "URLs or directories tried before COMPOSEAPPS_URL; each like ${DL_DIR}/composeapps."
COMPOSEAPPS_CONFIG ?= ""
COMPOSEAPPS_CONFIG[doc] = "Settings file for registries and certificates, as composeapps-publish --config takes it."
COMPOSEAPPS_PLATFORM ?= "${@composeapps_platform(d)}"
COMPOSEAPPS_PLATFORM[doc] = "OCI platform of the device, such as linux/arm64."

# What a bundle is kept under depends on what is in it, and not on where it came from.
COMPOSEAPPS_KEY = "${@composeapps_key(d)}"
COMPOSEAPPS_KEY[vardepvalue] = "${COMPOSEAPPS_KEY}"
COMPOSEAPPS_BUNDLE = "${DL_DIR}/composeapps/${COMPOSEAPPS_KEY}"
COMPOSEAPPS_SEALED = "${WORKDIR}/composeapps-factory"
COMPOSEAPPS_FACTORY ?= "${DEPLOY_DIR}/composeapps/${MACHINE}/${PN}"
COMPOSEAPPS_PUBLISH ?= "${STAGING_BINDIR_NATIVE}/composeapps-publish"

COMPOSEAPPS_PLATFORMS = "\
    aarch64:linux/arm64 \
    arm:linux/arm/v7 \
    i586:linux/386 \
    i686:linux/386 \
    powerpc64le:linux/ppc64le \
    riscv64:linux/riscv64 \
    x86_64:linux/amd64 \
"

def composeapps_platform(d):
    """Return the OCI platform of TARGET_ARCH, or nothing."""
    known = dict(item.split(":", 1) for item in d.getVar("COMPOSEAPPS_PLATFORMS").split())
    return known.get(d.getVar("TARGET_ARCH"), "")

def composeapps_wanted(d):
    """Return channel, release digest and apps by name; raises ValueError with one sentence."""
    import re
    pinned = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
    channel, release, apps = d.getVar("COMPOSEAPPS_CHANNEL"), "", {}
    for entry in (d.getVar("COMPOSEAPPS_PRELOAD") or "").split():
        name, equals, reference = entry.rpartition("=")
        if not pinned.fullmatch(reference):
            raise ValueError("%s in COMPOSEAPPS_PRELOAD has no digest: write NAME=REF@sha256:..., as composeapps-publish app printed it" % entry)
        if equals and name in apps:
            raise ValueError("two apps in COMPOSEAPPS_PRELOAD are called %s: give one another name" % name)
        if equals:
            apps[name] = reference
            continue
        if release:
            raise ValueError("COMPOSEAPPS_PRELOAD names two releases: an image holds one")
        channel, _, release = reference.partition("@")
    if release and apps:
        raise ValueError("COMPOSEAPPS_PRELOAD names a release and apps: a release says its apps by itself")
    return channel, release, apps

def composeapps_key(d):
    """Return the name of the bundle: a digest of all that decides what is in it."""
    import hashlib
    import json
    try:
        wanted = composeapps_wanted(d)
    except ValueError:
        return "unusable"
    root = d.getVar("COMPOSEAPPS_ROOT")
    trusted = bb.utils.sha256_file(root) if root and os.path.isfile(root) else ""
    text = json.dumps([wanted, d.getVar("COMPOSEAPPS_PLATFORM"), trusted], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

python () {
    if not d.getVar("COMPOSEAPPS_PRELOAD"):
        for task in ("do_composeapps_fetch", "do_composeapps_seal"):
            d.setVarFlag(task, "noexec", "1")
            d.delVarFlag(task, "depends")
        return
    # Only where there is something to fetch.
    d.setVarFlag("do_composeapps_fetch", "network", "1")
    try:
        composeapps_wanted(d)
        root = d.getVar("COMPOSEAPPS_ROOT")
        if not root or not os.path.isabs(root) or not os.path.isfile(root):
            raise ValueError("COMPOSEAPPS_ROOT has to be the path of the root.json that devices trust, and %s is none" % (root or "nothing"))
        if not d.getVar("COMPOSEAPPS_PLATFORM"):
            raise ValueError("no OCI platform is known for %s: set COMPOSEAPPS_PLATFORM" % d.getVar("TARGET_ARCH"))
        if not (d.getVar("COMPOSEAPPS_URL") or d.getVar("COMPOSEAPPS_MIRRORS")):
            raise ValueError("set COMPOSEAPPS_URL to the repository that the apps are released in")
    except ValueError as error:
        raise bb.parse.SkipRecipe(str(error))
}

def composeapps_publish(d, words, root, config, result=os.devnull):
    """Run composeapps-publish, its result to a file; returns nothing, or what it says is wrong."""
    import subprocess
    environment = dict(os.environ, PATH=d.getVar("PATH"), HOME=d.getVar("WORKDIR"))
    words += ["--root", root, "--platform", d.getVar("COMPOSEAPPS_PLATFORM")]
    command = [d.getVar("COMPOSEAPPS_PUBLISH"), *words, *(["--config", config] if config else [])]
    bb.debug(1, " ".join(command))
    with open(result, "w") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.PIPE, text=True)
    said = done.stderr.strip().splitlines()
    for line in said[:-1] if done.returncode else said:
        bb.debug(1, line)
    if not done.returncode:
        return ""
    return said[-1].removeprefix("composeapps-publish: ") if said else "composeapps-publish ended with %d" % done.returncode

python do_composeapps_fetch () {
    bundle = d.getVar("COMPOSEAPPS_BUNDLE")
    if os.path.isdir(bundle):
        bb.debug(1, "%s is there" % bundle)
        return
    channel, release, apps = composeapps_wanted(d)
    sources = [mirror.rstrip("/") + "/" + d.getVar("COMPOSEAPPS_KEY") for mirror in d.getVar("COMPOSEAPPS_MIRRORS").split()]
    sources += d.getVar("COMPOSEAPPS_URL").split()
    sources = [source.removeprefix("file://") for source in sources]
    offline = bb.utils.to_boolean(d.getVar("BB_NO_NETWORK"))
    if offline:
        sources = [source for source in sources if "://" not in source]
    sources = [source for source in sources if "://" in source or os.path.isdir(source)]
    bb.utils.mkdirhier(os.path.dirname(bundle))
    said = ""
    for source in sources:
        words = ["bundle", source, channel, "--output", bundle, "--reuse", os.path.dirname(bundle)]
        words += ["--release", release] if release else []
        for name, reference in sorted(apps.items()):
            words += ["--app", "%s=%s" % (name, reference)]
        said = composeapps_publish(d, words, d.getVar("COMPOSEAPPS_ROOT"), d.getVar("COMPOSEAPPS_CONFIG"))
        if not said:
            return
        bb.debug(1, "%s: %s" % (source, said))
    if said:
        bb.fatal("The apps of %s cannot be had: %s" % (d.getVar("PN"), said))
    if offline:
        bb.fatal("The apps of %s are neither in %s nor in a mirror directory, and BB_NO_NETWORK forbids to fetch them: run bitbake -c composeapps_fetch %s once with a network" % (d.getVar("PN"), bundle, d.getVar("PN")))
    bb.fatal("%s is no directory, and no URL: correct COMPOSEAPPS_URL" % d.getVar("COMPOSEAPPS_URL"))
}
do_composeapps_fetch[dirs] = "${WORKDIR}"
do_composeapps_fetch[lockfiles] = "${DL_DIR}/composeapps.lock"
do_composeapps_fetch[depends] = "composeapps-native:do_populate_sysroot"
do_composeapps_fetch[vardeps] = "COMPOSEAPPS_KEY"
do_composeapps_fetch[vardepsexclude] = "COMPOSEAPPS_CONFIG COMPOSEAPPS_MIRRORS COMPOSEAPPS_ROOT COMPOSEAPPS_URL BB_NO_NETWORK"
addtask composeapps_fetch after do_prepare_recipe_sysroot

python do_composeapps_seal () {
    import json
    bundle, sealed = d.getVar("COMPOSEAPPS_BUNDLE"), d.getVar("COMPOSEAPPS_SEALED")
    channel, release, apps = composeapps_wanted(d)
    words = ["--json", "preload", bundle, channel, "--offline", "--output", sealed + "/factory", "--cache", d.getVar("WORKDIR") + "/composeapps-cache"]
    # Whether it had expired was judged when it was fetched; an old release can be built again.
    words += ["--time", "0"]
    said = composeapps_publish(d, words, d.getVar("COMPOSEAPPS_ROOT"), d.getVar("COMPOSEAPPS_CONFIG"), sealed + "/contents.json")
    if said:
        bb.fatal("The apps of %s cannot be sealed: %s" % (d.getVar("PN"), said))
    with open(sealed + "/contents.json") as file:
        contents = json.load(file)
    # Where it was made is in no result.
    del contents["output"]
    with open(sealed + "/contents.json", "w") as file:
        json.dump(contents, file, indent=1, sort_keys=True)
    if apps and {name: app["artifact"] for name, app in contents["apps"].items()} != apps:
        bb.fatal("%s holds other apps than COMPOSEAPPS_PRELOAD names: remove it, and it is fetched anew" % bundle)
}
do_composeapps_seal[cleandirs] = "${COMPOSEAPPS_SEALED}"
do_composeapps_seal[depends] = "composeapps-native:do_populate_sysroot erofs-utils-native:do_populate_sysroot"
do_composeapps_seal[vardeps] = "COMPOSEAPPS_KEY"
do_composeapps_seal[vardepsexclude] = "COMPOSEAPPS_CONFIG COMPOSEAPPS_ROOT"
do_composeapps_seal[umask] = "022"
addtask composeapps_seal after do_composeapps_fetch before do_rootfs

SSTATETASKS += "do_composeapps_seal"
do_composeapps_seal[sstate-inputdirs] = "${COMPOSEAPPS_SEALED}"
do_composeapps_seal[sstate-outputdirs] = "${COMPOSEAPPS_FACTORY}"
do_composeapps_seal[stamp-extra-info] = "${MACHINE_ARCH}"
python do_composeapps_seal_setscene () {
    sstate_setscene(d)
}
addtask do_composeapps_seal_setscene

ROOTFS_POSTPROCESS_COMMAND:append = " composeapps_install_factory"
python composeapps_install_factory () {
    import filecmp
    import shutil
    if not d.getVar("COMPOSEAPPS_PRELOAD"):
        return
    sealed = d.getVar("COMPOSEAPPS_FACTORY") + "/factory"
    place = d.getVar("IMAGE_ROOTFS") + d.getVar("datadir") + "/composeapps"
    trusted = place + "/root.json"
    if os.path.exists(trusted) and not filecmp.cmp(trusted, sealed + "/root.json", shallow=False):
        bb.fatal("The image of %s trusts another root than its apps were verified from: set COMPOSEAPPS_ROOT where composeapps-conf sees it too" % d.getVar("PN"))
    bb.utils.mkdirhier(place)
    shutil.copytree(sealed, place + "/factory")
}
composeapps_install_factory[vardepsexclude] = "COMPOSEAPPS_FACTORY"

# Docker's unit wants a network that is online; a device starts its apps without one. The preset says
# so, but images only ever enable by presets, and with networkd what waits for it.
IMAGE_PREPROCESS_COMMAND:append = " composeapps_wait_for_no_network"
composeapps_wait_for_no_network () {
    rm -f ${IMAGE_ROOTFS}${sysconfdir}/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service
}
