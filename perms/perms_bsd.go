//go:build !linux

package perms

import "golang.org/x/sys/unix"

func chownAt(dir int, name string, uid, gid int) error {
	return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func chmodAt(dir int, name string, mode uint32) error {
	return unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
}
