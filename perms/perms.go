// Package perms says who may connect to a Unix socket, and who has: it reads the
// mode, owner and group that an administrator asks for, gives them to a socket
// file without ever following a link, knows what the running system makes of
// them, and asks the kernel whose a connection is.
//
// What the permissions of a socket file mean differs by system. FreeBSD asks
// for write permission on the file in connect(2), and for search permission on
// the directories that lead to it, as unix(4) says; Linux does the same, see
// unix(7). POSIX promises neither, so that other systems may not look at the
// file at all: there, only the directory is a guard to rely on. [Enforced] says
// which of these the program runs on.
//
// A [Spec] is what a program asks for: Spec{Mode: Set(0o660), GID: Set(80)}. What
// an administrator has typed is for [ParseMode], [LookupUser] and [LookupGroup],
// which are called at start: a confined process cannot look names up. The Spec
// goes to
// [github.com/onewake/onewake/sock.Listen], which sets it before anybody can
// connect. A program that makes its socket by itself calls [Spec.ApplyAt] between
// bind(2) and listen(2), in a directory that nobody else can write: once it
// listens, it is too late. Permissions count when a client connects; a connection
// lasts whatever becomes of them.
package perms

import (
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Spec says what mode, owner and group a file shall have. The zero Spec
// leaves all as the system makes it.
type Spec struct {
	Mode Setting // permission bits, 0 to 0777
	UID  Setting // owner
	GID  Setting // group
}

// A Setting is a number, or none: the zero Setting leaves as it is what it is
// about.
type Setting struct {
	n   int
	set bool
}

// Set returns the Setting of a number.
func Set(n int) Setting { return Setting{n, true} }

// Get returns the number, and whether there is one.
func (s Setting) Get() (n int, ok bool) { return s.n, s.set }

// Permits reports whether a file that has n is as s wants it.
func (s Setting) Permits(n int) bool { return !s.set || s.n == n }

// orUnchanged is what chown(2) wants.
func (s Setting) orUnchanged() int {
	if !s.set {
		return -1
	}
	return s.n
}

// ParseMode reads octal digits, 0 to 0777. No set-id or sticky bit: none means
// anything on a socket, so that asking for one is a slip.
func ParseMode(s string) (int, error) {
	m, err := strconv.ParseUint(s, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("mode %q: not an octal number from 0 to 0777", s)
	}
	return int(m), nil
}

// LookupUser returns the id of a user given by name or by number, as
// [os/user.Lookup] knows it: a program that was built without cgo reads
// /etc/passwd and /etc/group only. As chown(8)
// does, it takes a name for a name even if it is made of digits; a number
// needs no entry in the user database.
func LookupUser(nameOrNumber string) (uid int, err error) {
	if u, err := user.Lookup(nameOrNumber); err == nil {
		return parseID("user", nameOrNumber, u.Uid)
	}
	return parseID("user", nameOrNumber, nameOrNumber)
}

// LookupGroup returns the id of a group given by name or by number, in the
// manner of [LookupUser].
func LookupGroup(nameOrNumber string) (gid int, err error) {
	if g, err := user.LookupGroup(nameOrNumber); err == nil {
		return parseID("group", nameOrNumber, g.Gid)
	}
	return parseID("group", nameOrNumber, nameOrNumber)
}

// parseID reads the number of what ("user" or "group"). The last number of
// all is chown(2)'s own "leave it", and nobody's.
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

// ApplyAt gives the file called name in dir its owner, group and mode, in this
// order, since a change of owner may clear bits of the mode. It never follows a
// link: the calls are fchownat(2) and
// fchmodat(2) with AT_SYMLINK_NOFOLLOW; Linux before 6.6 has no such flag for
// the mode, so that there a symbolic link is an error (ELOOP) instead.
//
// Only root may give a file away, and others may only choose a group that they
// are in; the error then wraps [io/fs.ErrPermission]. Errors are of type
// [*os.PathError], with the path below dir's name.
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

// control runs f on the descriptor of c, kept open meanwhile.
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

// Enforced says in one line what this system asks of whoever calls connect(2)
// on a socket file.
func Enforced() string { return enforced }

// Notes returns what an administrator may want to read in the log about a
// socket file of this mode, owner and group, such as that everybody can
// connect; what it says is so where [Enforced] says that the mode is asked for.
// The texts are constant and short. No notes is the common case.
func Notes(mode os.FileMode, uid, gid int) []string {
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
	if mode.Perm()&0o020 != 0 && mode.Perm()&0o002 == 0 && !inGroup(gid) {
		notes = append(notes, "members of the socket's group can connect, and this process is not in it")
	}
	if uid != os.Geteuid() {
		notes = append(notes, "the socket belongs to another user than this process")
	}
	return notes
}

// inGroup reports whether this process is in the group. A list that cannot be
// read counts as one that does not have it.
func inGroup(gid int) bool {
	gids, _ := os.Getgroups()
	return gid == os.Getegid() || slices.Contains(gids, gid)
}

// UserName is the name of a user, or the number of one without a name.
func UserName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

// GroupName is the name of a group, or the number of one without a name.
func GroupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
