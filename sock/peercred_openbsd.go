package sock

import "golang.org/x/sys/unix"

func peerCred(fd int) (Cred, error) {
	if err := mustBeUnix(fd); err != nil {
		return Cred{}, err
	}
	// struct sockpeercred is uid, gid, pid. Of what x/sys/unix has, this
	// getsockopt(2) is the one that hands out 32-bit numbers and does not mind
	// which option they come from.
	b, err := unix.GetsockoptICMPv6Filter(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	gid := int(b.Filt[1])
	return Cred{UID: int(b.Filt[0]), GID: gid, Groups: []int{gid}, PID: int(int32(b.Filt[2]))}, nil
}
