package nbio

import "golang.org/x/sys/unix"

func growPipe(fd, size int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size) }
