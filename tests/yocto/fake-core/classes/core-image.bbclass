# A fake: an empty root file system, and the commands that fill it.
addtask rootfs before do_build
python do_rootfs () {
    import shutil
    root = d.getVar("IMAGE_ROOTFS")
    shutil.rmtree(root, ignore_errors=True)
    bb.utils.mkdirhier(root)
    for command in (d.getVar("ROOTFS_POSTPROCESS_COMMAND") or "").split():
        bb.build.exec_func(command, d)
}
do_image_wic () {
    :
}
