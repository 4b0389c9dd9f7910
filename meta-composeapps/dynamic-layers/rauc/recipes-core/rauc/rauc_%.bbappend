require ${@bb.utils.contains('DISTRO_FEATURES', 'composeapps', 'rauc-composeapps.inc', '', d)}
