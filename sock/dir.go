package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A dirWalk follows the path of a socket's directory from the root, through
// symbolic links as the kernel does, and checks each directory. A user who can
// write one of them could replace the next (mv run run.old; mkdir run), so that
// clients connect to a socket of his. So each must be owned by us or root, and not
// be writable by others unless it is sticky, which lets only an entry's owner
// replace it.
//
// Others cannot replace what has been checked, because the directory above it
// was checked first. So checking by path is safe, and needs no read permission.
// After chroot(2) or in a jail, the walk starts at that root.
type dirWalk struct {
	at   string // the current directory, without symbolic links
	st   stat   // of at
	errs []error
	seen map[string]bool
}

// walk follows the path to dir. The dirWalk is at its end, and has all that is
// unsafe in errs. The error means that the path does not lead to a directory.
func walk(dir string) (*dirWalk, error) {
	w := &dirWalk{seen: make(map[string]bool)}
	rest := split(dir)
	for links := 0; len(rest) > 0; {
		next := path.Join(w.at, rest[0]) // correct for .. as well, since at has no symbolic links
		if rest[0] == "/" {
			next = "/"
		}
		rest = rest[1:]
		st, err := lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return w, failf(NoDir, dir, nil, "%s: %w", dir, err)
		case errors.Is(err, fs.ErrPermission):
			return w, denied(w.at, "cannot enter it")
		case err != nil:
			return w, &os.PathError{Op: "stat", Path: next, Err: err}
		case st.kind() == unix.S_IFLNK:
			w.checkLink(next, st)
			target, err := os.Readlink(next)
			if err != nil {
				return w, err
			}
			if links++; links > 32 { // MAXSYMLINKS of FreeBSD
				return w, &os.PathError{Op: "readlink", Path: next, Err: unix.ELOOP}
			}
			rest = append(split(target), rest...)
		case st.kind() != unix.S_IFDIR:
			return w, fmt.Errorf("%s: %w, use a path in one", next, unix.ENOTDIR)
		default:
			w.at, w.st = next, st
			w.checkDir(len(rest) == 0)
		}
	}
	return w, nil
}

// split returns the elements of a path. The first of an absolute path is "/".
func split(p string) []string {
	elements := strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
	if path.IsAbs(p) {
		elements = append([]string{"/"}, elements...)
	}
	return elements
}

// checkDir makes sure that others cannot replace what is in the current
// directory. The last one is the socket's own.
func (w *dirWalk) checkDir(last bool) {
	if w.seen[w.at] {
		return
	}
	w.seen[w.at] = true
	cause, below := DirOwner, ""
	if !last {
		cause, below = ParentOwner, ", and the socket is below it"
	}
	if !w.st.trusted() {
		not := "not by root"
		if us := os.Geteuid(); us != 0 {
			not = "neither by " + perms.UserName(us) + " nor by root"
		}
		w.errs = append(w.errs, failf(cause, w.at, ErrUnsafeDir, "%s: owned by user %s, %s%s", w.at, perms.UserName(w.st.uid), not, below))
	}
	if bits := w.st.mode & 0o022; bits != 0 && w.st.mode&unix.S_ISVTX == 0 {
		who := map[uint32]string{0o020: "its group", 0o002: "others", 0o022: "its group and others"}[bits]
		w.errs = append(w.errs, &Error{Cause: DirWritable, Path: w.at, Mode: fs.FileMode(bits), kind: ErrUnsafeDir,
			err: errors.New(w.at + ": writable by " + who + below)})
	}
}

// checkLink makes sure that others cannot replace a symbolic link. If only we and
// root can write its directory, the owner of the link does not matter.
func (w *dirWalk) checkLink(link string, st stat) {
	if w.st.writable() && !st.trusted() && !w.seen[link] {
		w.seen[link] = true
		w.errs = append(w.errs, failf(ForeignLink, link, ErrUnsafeDir,
			"%s: a symbolic link of user %s, where others can write", link, perms.UserName(st.uid)))
	}
}
