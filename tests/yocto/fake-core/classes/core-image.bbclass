# A fake: an empty root file system, and the commands that fill it.
addtask rootfs before do_build
python do_rootfs () {
    import shutil
    root = d.getVar("IMAGE_ROOTFS")
    shutil.rmtree(root, ignore_errors=True)
    bb.utils.mkdirhier(root)
    commands = ("ROOTFS_POSTPROCESS_COMMAND", "IMAGE_PREPROCESS_COMMAND")
    for command in " ".join(d.getVar(name) or "" for name in commands).split():
        bb.build.exec_func(command, d)
}
do_image_wic () {
    :
}
