//go:build confine

package sandbox

import "golang.org/x/sys/unix"

// refusedHere are older calls that only some machines have.
var refusedHere = []uintptr{
	unix.SYS_ACCESS, unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_CREAT, unix.SYS_LCHOWN,
	unix.SYS_LINK, unix.SYS_LSTAT, unix.SYS_MKDIR, unix.SYS_MKNOD, unix.SYS_OPEN,
	unix.SYS_READLINK, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_RMDIR, unix.SYS_STAT,
	unix.SYS_SYMLINK, unix.SYS_UNLINK,
}
