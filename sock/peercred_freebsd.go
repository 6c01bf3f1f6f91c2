package sock

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const solLocal = 0 // SOL_LOCAL of <sys/un.h>

func peerCred(fd int) (Cred, error) {
	if err := mustBeUnix(fd); err != nil {
		return Cred{}, err
	}
	x, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	n := int(x.Ngroups)
	if x.Version != 0 || n < 1 || n > len(x.Groups) { // XUCRED_VERSION is 0
		return Cred{}, errors.New("LOCAL_PEERCRED: not an xucred that this program knows")
	}
	gid := int(x.Groups[0])
	// The last member is a union of a pointer and, since 13, the pid; older
	// kernels leave it zero.
	pid := *(*int32)(unsafe.Add(unsafe.Pointer(x), unsafe.Sizeof(*x)-unsafe.Sizeof(uintptr(0))))
	return Cred{UID: int(x.Uid), GID: gid, Groups: groupList(gid, x.Groups[1:n]), PID: int(pid)}, nil
}
