//go:build freebsd || linux || netbsd || openbsd

package spawn

import "golang.org/x/sys/unix"

const recvFlags = unix.MSG_CMSG_CLOEXEC
