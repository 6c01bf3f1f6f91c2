package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// Check finds out what [Listen] would, and changes nothing: no lock file is
// made, no file removed, nothing bound at a path. (A TCP address is bound and
// let go.) All that is wrong is reported at once. If Listen would have something
// to clear away, the note says what.
//
// A server that holds the lock, such as the caller's own that is running, is an
// [ErrLocked], and then the only error; one that does not is a mere [ErrInUse].
func Check(a Addr, p perms.Spec) (note string, err error) {
	if err := recheck(a); err != nil {
		return "", listenError(a, err)
	}
	var errs []error
	switch a.Network {
	case Unix:
		note, errs = checkUnix(a, p)
	case FD:
		fd, err := parseFD(a.Address)
		if err == nil {
			_, err = checkListening(fd)
		}
		errs = []error{err}
	default:
		ln, err := bindTCP(a)
		if err == nil {
			ln.Close()
		}
		errs = []error{err}
	}
	for i, err := range errs {
		errs[i] = listenError(a, err)
	}
	return note, collect(errs...)
}

func checkUnix(a Addr, spec perms.Spec) (note string, errs []error) {
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	p, err := openPlace(a.Address)
	if err != nil {
		return "", []error{err}
	}
	defer p.dir.Close()
	add(p.checkDir())
	err = onFD(p.dir, func(fd int) error {
		return unix.Faccessat(fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	})
	add(p.closed(err))
	add(p.checkOwner(spec))

	held, err := p.lockHeld()
	add(err)
	st, err := p.lookForSocket()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		add(err)
		return "", errs
	case !held:
		note, err = p.checkLeftover(st)
		add(err)
	}
	if held && len(errs) == 0 {
		add(p.locked())
	}
	return note, errs
}

// checkOwner finds out whether the owner and group could be given, by the rule
// of chown(2): root may, others may choose a group that they are in or that the
// file has anyway.
func (p *place) checkOwner(spec perms.Spec) error {
	euid := os.Geteuid()
	if euid == 0 {
		return nil
	}
	if spec.UID != perms.Unchanged && spec.UID != euid {
		return kindf(fs.ErrPermission, "owner %s: only root can give a socket away, and user %s starts this (to mend: leave the owner out, or start it as that user)", perms.UserName(spec.UID), perms.UserName(euid))
	}
	if spec.GID == perms.Unchanged || spec.GID == os.Getegid() {
		return nil
	}
	gids, err := os.Getgroups()
	if err != nil {
		return err
	}
	dir, err := fstat(p.dir)
	if err != nil {
		return err
	}
	if slices.Contains(gids, spec.GID) || spec.GID == newFileGID(dir) {
		return nil
	}
	return kindf(fs.ErrPermission, "group %s: user %s is not in it, and the group of %s is another (to mend: add the user to the group, or give it the directory)",
		perms.GroupName(spec.GID), perms.UserName(euid), p.dir.Name())
}

// checkLeftover judges a socket file that no lock protects.
func (p *place) checkLeftover(st stat) (note string, err error) {
	v, err := p.ask(st)
	switch {
	case v == alive:
		return "", inUse("answers")
	case v == mute:
		return fmt.Sprintf("%s: a socket file of ours that we may not ask, removed at start if it is a leftover", p.path), nil
	case v != stale:
		return "", err
	}
	dir, err := fstat(p.dir)
	if err != nil {
		return "", err
	}
	euid := os.Geteuid()
	if dir.mode&unix.S_ISVTX != 0 && euid != 0 && euid != dir.uid && euid != st.uid {
		return "", kindf(fs.ErrPermission, "leftover socket %s: owned by user %s, not by %s (to mend: remove it)", p.path, perms.UserName(st.uid), perms.UserName(euid))
	}
	return fmt.Sprintf("%s: a leftover socket file, removed at start", p.path), nil
}
