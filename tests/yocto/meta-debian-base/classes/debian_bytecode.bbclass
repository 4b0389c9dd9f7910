# Compiles Python's files with the tree's own interpreter, as OE's recipes do when they are built: an
# image's times are none of its byte code's, and nothing can be written where the root is read-only.
ROOTFS_POSTPROCESS_COMMAND:append = " debian_bytecode"
debian_bytecode () {
    libraries=${IMAGE_ROOTFS}/usr/lib/x86_64-linux-gnu
    PYTHONHOME=${IMAGE_ROOTFS}/usr PYTHONHASHSEED=0 $libraries/ld-linux-x86-64.so.2 --library-path $libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        ${IMAGE_ROOTFS}/usr/bin/python3.13 -s -S -m compileall -q -f --invalidation-mode unchecked-hash \
        -s ${IMAGE_ROOTFS} -p / ${IMAGE_ROOTFS}/usr/lib/python3 ${IMAGE_ROOTFS}/usr/lib/python3.13
}
