require ${@bb.utils.contains('DISTRO_FEATURES', 'composeapps', 'recipes-kernel/linux/linux-composeapps.inc', '', d)}
