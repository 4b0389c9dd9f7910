require ${@bb.utils.contains('DISTRO_FEATURES', 'composeapps', 'linux-composeapps.inc', '', d)}
