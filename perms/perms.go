// Package perms controls who can connect to a Unix socket. It parses the mode,
// owner and group that an administrator chose, sets them on a socket file without
// following symbolic links, and returns the credentials of a client.
//
// The meaning of a socket file's permissions depends on the system. On FreeBSD
// (unix(4)) and Linux (unix(7)), connect(2) needs write permission on the file and
// search permission on its directories. POSIX requires neither, so on other
// systems only the permissions of the directory are certain to count. [Enforced]
// describes the running system.
//
// A program writes a [Spec], such as Spec{Mode: Set(0o660), GID: Set(80)}.
// [ParseMode], [LookupUser] and [LookupGroup] are for user input; they must be
// called at start, since a process in a sandbox cannot look up names.
// [github.com/onewake/onewake/sock.Listen] applies the Spec before any client can
// connect. A program that creates its socket itself calls [Spec.ApplyAt] between
// bind(2) and listen(2), in a directory that no other user can write. After
// listen(2) it is too late. Later changes of the permissions do not affect existing
// connections.
package perms

import (
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Spec has the mode, owner and group for a file. The zero Spec changes nothing.
type Spec struct {
	Mode Setting // permission bits, 0 to 0777
	UID  Setting // owner
	GID  Setting // group
}

// A Setting is a number, or no number, which is the zero Setting and means no
// change.
type Setting struct {
	n   int
	set bool
}

// Set returns the Setting of a number.
func Set(n int) Setting { return Setting{n, true} }

// Get returns the number, and whether there is one.
func (s Setting) Get() (n int, ok bool) { return s.n, s.set }

// Permits reports whether s is n or not set.
func (s Setting) Permits(n int) bool { return !s.set || s.n == n }

// orUnchanged returns the argument for chown(2).
func (s Setting) orUnchanged() int {
	if !s.set {
		return -1
	}
	return s.n
}

// ParseMode parses an octal mode from 0 to 0777. Set-id and sticky bits are
// errors, because they have no meaning on a socket.
func ParseMode(s string) (int, error) {
	m, err := strconv.ParseUint(s, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("mode %q: not an octal number from 0 to 0777", s)
	}
	return int(m), nil
}

// LookupUser returns the id of a user given by name or number. It uses
// [os/user.Lookup], which without cgo reads only /etc/passwd and /etc/group. As in
// chown(8), a name made of digits takes precedence over a number, and a number
// needs no entry in the user database.
func LookupUser(nameOrNumber string) (uid int, err error) {
	if u, err := user.Lookup(nameOrNumber); err == nil {
		return parseID("user", nameOrNumber, u.Uid)
	}
	return parseID("user", nameOrNumber, nameOrNumber)
}

// LookupGroup returns the id of a group given by name or number, like
// [LookupUser].
func LookupGroup(nameOrNumber string) (gid int, err error) {
	if g, err := user.LookupGroup(nameOrNumber); err == nil {
		return parseID("group", nameOrNumber, g.Gid)
	}
	return parseID("group", nameOrNumber, nameOrNumber)
}

// parseID parses a user or group id. The highest number is not an id: it means no
// change in chown(2).
func parseID(what, name, number string) (int, error) {
	n, err := strconv.ParseUint(number, 10, 32)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s %q: no such %s, and not a number from 0 to %d", what, name, what, uint32(math.MaxUint32-1))
	case n == math.MaxUint32 || n > math.MaxInt:
		return 0, fmt.Errorf("%s %q: out of range", what, name)
	}
	return int(n), nil
}

// ApplyAt sets owner, group and mode of the file name in dir, in this order,
// because a change of the owner may clear bits of the mode. It does not follow
// symbolic links: it uses fchownat(2) and fchmodat(2) with AT_SYMLINK_NOFOLLOW. On
// Linux before 6.6, where fchmodat(2) lacks the flag, a symbolic link is an error
// (ELOOP).
//
// Only root can set another owner, and others can only set a group that they are
// in; else the error wraps [io/fs.ErrPermission]. Errors are of type
// [*os.PathError].
func (s Spec) ApplyAt(dir *os.File, name string) error {
	if s.UID.set || s.GID.set {
		uid, gid := s.UID.orUnchanged(), s.GID.orUnchanged()
		err := control(dir, func(fd int) error {
			return unix.Fchownat(fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil {
			return &os.PathError{Op: "chown", Path: filepath.Join(dir.Name(), name), Err: err}
		}
	}
	if s.Mode.set {
		if err := control(dir, func(fd int) error { return chmodAt(fd, name, uint32(s.Mode.n)) }); err != nil {
			return &os.PathError{Op: "chmod", Path: filepath.Join(dir.Name(), name), Err: err}
		}
	}
	return nil
}

// control calls f with the descriptor of c, which stays open meanwhile.
func control(c syscall.Conn, f func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) })
	if cerr != nil {
		return cerr
	}
	return err
}

// Enforced returns one line that says which permissions connect(2) needs on this
// system.
func Enforced() string {
	if runtime.GOOS == "freebsd" || runtime.GOOS == "linux" {
		return "write permission on the socket file, and search permission on its directories"
	}
	return "unknown: this system may ignore the permissions of a socket file, restrict its directory"
}

// Notes returns remarks for the log about a socket file with this mode and owner,
// such as that every user can connect. They apply where the mode counts, see
// [Enforced]. The texts are constant and short. Usually there are none.
func Notes(mode os.FileMode, uid int) []string {
	const write = 0o222
	var notes []string
	switch m := mode.Perm(); {
	case m&write == 0:
		notes = append(notes, "no user but root can connect")
	case m&0o002 != 0:
		notes = append(notes, "every local user can connect")
	case m&write == 0o200:
		notes = append(notes, "no user but the owner and root can connect")
	}
	if uid != os.Geteuid() {
		notes = append(notes, "the socket belongs to another user than this process")
	}
	return notes
}

// UserName returns the name of a user, or the number if there is none.
func UserName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

// GroupName returns the name of a group, or the number if there is none.
func GroupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
