package sock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

func (s *socketFile) lockName() string { return "." + s.name + ".lock" }
func (s *socketFile) lockPath() string { return path.Join(s.dir.Name(), s.lockName()) }

func (s *socketFile) locked() error {
	return failf(LockHeld, s.lockPath(), ErrLocked, "%w: a running server holds %s", ErrInUse, s.lockPath())
}

// takeLock locks the lock file, and waits for that as long as LockWait and ctx
// allow. The lock file is never removed: otherwise a process that has just opened
// it would lock a file that no other process can find.
func (s *socketFile) takeLock(ctx context.Context) (*os.File, error) {
	deadline := time.Now().Add(cmp.Or(s.config.LockWait, lockWait))
	for {
		// The time is read before the attempt, so that the last attempt comes
		// after the deadline even if this process was suspended.
		last := !time.Now().Before(deadline)
		f, err := s.openLock(ctx, unix.O_RDWR|unix.O_CREAT)
		if err != nil {
			return nil, err
		}
		step(ctx, "lock opened")
		held, err := flock(f, unix.LOCK_EX)
		if !held && err == nil {
			ours, _ := fstat(f)
			st, serr := s.stat(s.lockName())
			if serr == nil && st.sameFile(ours) {
				return f, nil
			}
			// Somebody removed the file after it was opened. A lock on it has no
			// effect: open the new one.
			if !errors.Is(serr, fs.ErrNotExist) {
				err = serr
			}
		}
		f.Close()
		switch {
		case err != nil:
			return nil, err
		case !held:
			continue
		case last:
			return nil, s.locked()
		}
		step(ctx, "waiting")
		if pause(ctx, 5*time.Millisecond); ctx.Err() != nil {
			return nil, fmt.Errorf("stopped while another server holds %s: %w", s.lockPath(), context.Cause(ctx))
		}
	}
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// flock reports whether another process holds the lock.
func flock(f *os.File, how int) (held bool, err error) {
	err = onFD(f, func(fd int) error { return unix.Flock(fd, how|unix.LOCK_NB) })
	if held = errors.Is(err, unix.EWOULDBLOCK); held || err == nil {
		return held, nil
	}
	return false, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
}

// lockHeld reports whether a server holds the lock. It creates nothing.
func (s *socketFile) lockHeld(ctx context.Context) (bool, error) {
	f, err := s.openLock(ctx, unix.O_RDONLY)
	// Our own lock file without read permission was never locked: its server was
	// killed before it could set the mode.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	// The lock is shared, so that two checks at once do not see each other.
	return flock(f, unix.LOCK_SH)
}

// openLock opens the lock file, and creates it if flags say so. In a sticky
// directory any user may have created something else under its name. checkLock
// rejects that, before and after open(2); O_NOFOLLOW and O_NONBLOCK make open(2)
// itself harmless.
func (s *socketFile) openLock(ctx context.Context, flags int) (f *os.File, err error) {
	create := flags&unix.O_CREAT != 0
	st, err := s.stat(s.lockName())
	if err == nil {
		err = s.checkLock(st)
		if err == nil && create && st.mode&0o777 != 0o600 {
			// Its server had another umask and was killed before it set the mode.
			err = (perms.Spec{Mode: perms.Set(0o600)}).ApplyAt(s.dir, s.lockName())
		}
	}
	if err != nil && !(create && errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	step(ctx, "lock seen")
	err = onFD(s.dir, func(dir int) error {
		fd, err := unix.Openat(dir, s.lockName(), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err == nil {
			unix.SetNonblock(fd, false) // else os.NewFile would add it to the poller
			f = os.NewFile(uintptr(fd), s.lockPath())
		}
		return err
	})
	if err != nil {
		return nil, pathError("open", s.lockPath(), err)
	}
	if st, err = fstat(f); err == nil {
		err = s.checkLock(st)
	}
	// Whoever can open the file can lock it, and so keep a server from starting.
	if err == nil && create && st.mode&0o7777 != 0o600 {
		step(ctx, "lock created")
		err = onFD(f, func(fd int) error { return unix.Fchmod(fd, 0o600) })
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// checkLock makes sure that this is a regular file that our user created.
//
// If others can write the directory, they may have linked another file of ours to
// this name. A link elsewhere does no harm, and must not prevent a start: FreeBSD
// lets anyone link to a file that he can find. A file without links was just
// removed, which takeLock detects.
func (s *socketFile) checkLock(st stat) error {
	var why string
	switch {
	case st.kind() != unix.S_IFREG:
		why = "not a regular file"
	case st.uid != os.Geteuid():
		why = "owned by user " + perms.UserName(st.uid) + ", not by " + perms.UserName(os.Geteuid())
	case st.links > 1 && s.dirStat.writable():
		why = fmt.Sprintf("has %d hard links instead of one", st.links)
	default:
		return nil
	}
	return failf(BadLock, s.lockPath(), ErrUnsafeLock, "%s: %s", s.lockPath(), why)
}
