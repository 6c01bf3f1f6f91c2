package sock

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

func peerCred(fd int) (Cred, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	// What a socket of another family answers, and one that is not connected.
	if u.Uid == math.MaxUint32 {
		return Cred{}, errNotUnix
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return Cred{}, err
	}
	gid := int(u.Gid)
	return Cred{UID: int(u.Uid), GID: gid, Groups: groupList(gid, groups), PID: int(u.Pid)}, nil
}

func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ENOPROTOOPT: // before 4.13
			return nil, nil
		case unix.ERANGE: // size is what it takes
			if int(size/4) <= len(groups) {
				return nil, errno
			}
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
