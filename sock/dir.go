package sock

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A way leads from the root to the directory of a socket. Who can write a
// directory on it can put another one in the place of the next (mv run run.old;
// mkdir run), and so have clients connect to a socket of his own. So each must be
// ours or root's, and nobody else may write there; unless it is sticky, where
// only its owner can replace a thing.
//
// It is walked from the top, through links as the kernel does. What has been
// looked at cannot be replaced by others any more, since the directory that holds
// it was looked at before; so paths do, and take no permission to read. In a jail
// or after chroot(2) it begins at the root that there is: what is above is for
// whoever made that.
type way struct {
	at   string // where we are, by no symbolic link
	st   stat   // of that
	errs []error
	seen map[string]bool
}

// walk goes the way to dir, and stays there. All that is unsafe is in errs; the
// error is that the way does not lead there.
func walk(dir string) (*way, error) {
	w := &way{seen: make(map[string]bool)}
	rest := split(dir)
	err := w.enter("/", len(rest) == 0)
	for links := 0; err == nil && len(rest) > 0; {
		next := path.Join(w.at, rest[0]) // the parent, if that is .., since there is no link in w.at
		rest = rest[1:]
		var st stat
		if st, err = lstat(next); err != nil {
			return w, w.deadEnd(dir, next, err)
		}
		if st.kind() != unix.S_IFLNK {
			err = w.enter(next, len(rest) == 0)
			continue
		}
		w.checkLink(next, st)
		target, rerr := os.Readlink(next)
		if links++; rerr == nil && links > 32 { // MAXSYMLINKS of FreeBSD
			rerr = unix.ELOOP
		}
		if rerr != nil {
			return w, pathError("readlink", next, rerr)
		}
		if path.IsAbs(target) {
			err = w.enter("/", false)
		}
		rest = append(split(target), rest...)
	}
	return w, err
}

func split(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// deadEnd says why the way to dir does not lead past here.
func (w *way) deadEnd(dir, next string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return failf(NoDir, dir, nil, "%s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return failf(Other, w.at, nil, "%s: %w: user %s cannot enter it, use a directory of its own", w.at, err, perms.UserName(os.Geteuid()))
	}
	return pathError("stat", next, err)
}

// enter goes to a directory and looks at it. The last one is the socket's own.
func (w *way) enter(dir string, last bool) error {
	st, err := lstat(dir)
	if err != nil {
		return pathError("stat", dir, err)
	}
	if st.kind() != unix.S_IFDIR {
		return failf(Other, dir, nil, "%s: %w, use a path in one", dir, unix.ENOTDIR)
	}
	if w.at, w.st = dir, st; !w.seen[dir] {
		w.seen[dir] = true
		w.checkDir(last)
	}
	return nil
}

// checkDir makes sure that nobody else can replace what is in this directory.
func (w *way) checkDir(last bool) {
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

// checkLink makes sure that nobody else can replace a symbolic link. It does not
// matter whose it is where only we and root can write.
func (w *way) checkLink(link string, st stat) {
	if w.st.writable() && !st.trusted() && !w.seen[link] {
		w.seen[link] = true
		w.errs = append(w.errs, failf(ForeignLink, link, ErrUnsafeDir,
			"%s: a symbolic link of user %s, where others can write", link, perms.UserName(st.uid)))
	}
}
