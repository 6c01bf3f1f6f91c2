package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

func (p *place) lockPath() string { return p.join(p.lockName()) }
func (p *place) lockName() string { return "." + p.name + ".lock" }

// takeLock takes the lock of the socket, and waits for it as long as the Config
// and ctx allow. The lock file stays when the lock goes: were it removed, a
// process that has just opened it would lock a file that nobody else can find.
func (p *place) takeLock(ctx context.Context) (*os.File, error) {
	deadline := time.Now().Add(p.config.lockWait())
	for {
		// Asked before the try, so that the last one comes after the deadline
		// however long this process was kept from running.
		over := !time.Now().Before(deadline)
		f, err := p.tryLock(ctx)
		if f != nil || err != nil {
			return f, err
		}
		if over {
			return nil, p.locked()
		}
		step(ctx, "waiting")
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil, fmt.Errorf("stopped while another server holds %s: %w", p.lockPath(), err)
		}
	}
}

// pause waits for d, or for the end of ctx, the cause of which it returns.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *place) locked() error {
	return failf(LockHeld, p.lockPath(), ErrLocked, "%w: a running server holds %s", ErrInUse, p.lockPath())
}

// tryLock returns no file and no error if the lock is held.
func (p *place) tryLock(ctx context.Context) (*os.File, error) {
	for {
		f, err := p.openLock(ctx, unix.O_RDWR|unix.O_CREAT)
		if err != nil {
			return nil, err
		}
		step(ctx, "lock opened")
		held, err := flock(f, unix.LOCK_EX)
		if !held && err == nil {
			mine, _ := fstat(f)
			st, serr := p.stat(p.lockName())
			if serr == nil && st.sameFile(mine) {
				return f, nil
			}
			if serr != nil && !errors.Is(serr, fs.ErrNotExist) {
				err = serr
			}
		}
		f.Close()
		if held || err != nil {
			return nil, err
		}
		// Somebody who tidied up has removed the file in the meantime. A lock
		// on it means nothing.
	}
}

// flock reports whether another descriptor holds the lock.
func flock(f *os.File, how int) (held bool, err error) {
	err = onFD(f, func(fd int) error { return unix.Flock(fd, how|unix.LOCK_NB) })
	if held = errors.Is(err, unix.EWOULDBLOCK); held || err == nil {
		return held, nil
	}
	return false, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
}

// unlock gives the lock back, also of duplicates of its descriptor: whoever has
// one must not keep the next server out.
func unlock(f *os.File) error {
	return onFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
}

// lockHeld reports whether some server holds the lock, and creates nothing.
func (p *place) lockHeld(ctx context.Context) (bool, error) {
	f, err := p.openLock(ctx, unix.O_RDONLY)
	// A lock file of ours that we may not open is one whose maker was killed
	// before it could set the mode, and before it could lock it.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	// A shared lock, so that two who only look do not mislead each other.
	return flock(f, unix.LOCK_SH)
}

// openLock opens the lock file, and makes it if flags say so. In a sticky
// directory anybody can have put anything in its place: O_NOFOLLOW and O_NONBLOCK
// see to it that opening that does no harm, and checkLock that it is not used.
func (p *place) openLock(ctx context.Context, flags int) (f *os.File, err error) {
	create := flags&unix.O_CREAT != 0
	st, err := p.stat(p.lockName())
	switch {
	case err == nil:
		err = p.checkLock(st)
		if err == nil && create && st.mode&0o777 != 0o600 {
			// Its maker had a strict umask, and was killed at once.
			err = (perms.Spec{Mode: perms.Set(0o600)}).ApplyAt(p.dir, p.lockName())
		}
	case create && errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return nil, err
	}
	step(ctx, "lock seen")
	err = onFD(p.dir, func(dir int) error {
		fd, err := unix.Openat(dir, p.lockName(), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err == nil {
			unix.SetNonblock(fd, false) // or os.NewFile would have the poller watch it
			f = os.NewFile(uintptr(fd), p.lockPath())
		}
		return err
	})
	if err != nil {
		return nil, pathError("open", p.lockPath(), err)
	}
	if st, err = fstat(f); err == nil {
		err = p.checkLock(st)
	}
	// Who can open the file can lock it, and so keep a server from starting.
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

func (p *place) checkLock(st stat) error {
	var why string
	switch {
	case st.kind() != unix.S_IFREG:
		why = "not a regular file, which a lock file is"
	case st.uid != os.Geteuid():
		why = "owned by user " + perms.UserName(st.uid) + ", not by " + perms.UserName(os.Geteuid())
	case st.links > 1 && p.st.writable(): // none: removed just now, which tryLock notices
		// Somebody may have put a file of ours here under a second name, who
		// can write the directory. A second name elsewhere is no harm: FreeBSD
		// lets whoever finds a file link to it, such as the web server, which
		// must not be able to keep us from starting by that.
		why = fmt.Sprintf("has %d links, a lock file has one", st.links)
	default:
		return nil
	}
	return failf(BadLock, p.lockPath(), ErrUnsafeLock, "%s: %s", p.lockPath(), why)
}
