# The publisher runs in the build.
BBCLASSEXTEND += "native"
