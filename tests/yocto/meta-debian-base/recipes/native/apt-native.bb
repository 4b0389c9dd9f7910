SUMMARY = "The host's apt and dpkg, set up as OE's package manager code wants them"
LICENSE = "CLOSED"
inherit native

do_install () {
    install -d ${D}${sysconfdir}/apt ${D}${bindir}
    cat > ${D}${sysconfdir}/apt/apt.conf.sample << 'EOF'
Dir "/"
{
   State "#ROOTFS#/var/lib/apt/"
   {
      Lists "#APTCONF#/lists/";
      status "#ROOTFS#/var/lib/dpkg/status";
   };
   Cache "#APTCONF#/";
   Etc "#APTCONF#/";
   Log "#APTCONF#/";
   Bin
   {
      dpkg "oe-dpkg";
   };
};
Dir::Cache::archives "#APTCONF#/archives/";
APT
{
  Install-Recommends "true";
  Immediate-Configure "false";
  Architecture "i586";
  Get
  {
     Assume-Yes "true";
  };
};
APT::Sandbox::User "root";
Acquire
{
  AllowInsecureRepositories "true";
};
DPkg::Options {"--root=#ROOTFS#";"--admindir=#ROOTFS#/var/lib/dpkg";"--force-all";"--log=#APTCONF#/dpkg.log";"--no-debsig"};
DPkg::Path "";
EOF
    # Maintainer scripts of OE's want the root file system in $D; dpkg gives them $DPKG_ROOT.
    cat > ${D}${bindir}/oe-dpkg << 'EOF'
#!/bin/sh
for word in "$@"; do
    case $word in --root=*) export D=${word#--root=} ;; esac
done
exec dpkg "$@"
EOF
    chmod 0755 ${D}${bindir}/oe-dpkg
}
