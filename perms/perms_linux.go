package perms

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

func chmodAt(dir int, name string, mode uint32) error {
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	// EOPNOTSUPP: x/sys returns it for a kernel without the call, and a kernel
	// with the call for a symbolic link. EPERM: the system call filter of an old
	// container returns it for unknown calls.
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return chmodOld(dir, name, mode)
	}
	return err
}

// chmodOld is for kernels before 6.6, without fchmodat2(2). The descriptor stays
// on one file, so that nobody can replace it between check and change, and the
// link in /proc leads to that file.
func chmodOld(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.ELOOP
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

func peerCred(fd int) (Cred, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil && u.Uid == math.MaxUint32 { // not connected, or of another family
		err = errNotUnix
	}
	if err != nil {
		return Cred{}, err
	}
	groups, err := peerGroups(fd)
	return Cred{UID: int(u.Uid), GID: int(u.Gid), Groups: groupList(int(u.Gid), groups)}, err
}

func peerGroups(fd int) ([]uint32, error) {
	for n := 64; ; {
		groups := make([]uint32, n)
		size := uint32(n * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ENOPROTOOPT: // before 4.13
			return nil, nil
		case errno != unix.ERANGE || int(size/4) <= n:
			return nil, errno
		}
		n = int(size / 4) // the size that is needed
	}
}
