# A fake: tasks that do nothing, but for those that the preload class hangs itself between.
BBIMPORTS = ""
addtask prepare_recipe_sysroot
python do_prepare_recipe_sysroot () {
    pass
}
addtask unpack after do_prepare_recipe_sysroot
python do_unpack () {
    pass
}
addtask configure after do_unpack
do_configure () {
    :
}
addtask install after do_configure
do_install () {
    :
}
addtask build after do_install
python do_build () {
    pass
}

# In the real one a task's result is carried to another place, over a cache.
def sstate_setscene(d):
    pass
