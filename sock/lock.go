package sock

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// lockPatience is how long a predecessor may take to end. Only tests change it.
var lockPatience = 5 * time.Second

func (p *place) lockName() string { return "." + p.name + ".lock" }

// lock takes the lock of the socket, waiting as long as patience says. The lock
// file stays when the lock goes: were it removed, a process that has just opened
// it would lock a file that nobody else can find.
func (p *place) lock(patience time.Duration) (*os.File, error) {
	deadline := time.Now().Add(patience)
	for {
		f, err := p.tryLock()
		if f != nil || err != nil {
			return f, err
		}
		if time.Now().After(deadline) {
			return nil, p.locked()
		}
		// Not all at once, where many wait.
		time.Sleep(2*time.Millisecond + rand.N(3*time.Millisecond))
	}
}

func (p *place) locked() error {
	lock := p.join(p.lockName())
	return kindf(ErrLocked, "%w: a running server holds %s%s", ErrInUse, lock, toFind("it", "fstat "+lock, "fuser "+lock))
}

// tryLock returns no file and no error if the lock is held.
func (p *place) tryLock() (*os.File, error) {
	f, err := p.openLock(unix.O_RDWR | unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	step("lock opened")
	err = onFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, nil
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	// Somebody who tidied up may have removed the file in the meantime. A
	// lock on it means nothing then.
	mine, err := fstat(f)
	if err == nil {
		var st stat
		st, err = p.stat(p.lockName())
		if err == nil && st.sameFile(mine) {
			return f, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	f.Close()
	return nil, err
}

// lockHeld reports whether some server holds the lock, and creates nothing.
func (p *place) lockHeld() (bool, error) {
	f, err := p.openLock(unix.O_RDONLY)
	// A lock file of ours that we may not open is one whose maker was killed
	// before it could set the mode, and before it could lock it. Who owns it was
	// seen to before that error.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	// A shared lock, so that two who only look do not mislead each other. Who
	// really wants the lock asks more than once.
	err = onFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return false, nil
}

// openLock opens the lock file. In a sticky directory anybody can have put
// anything in its place: O_NOFOLLOW and O_NONBLOCK see to it that opening that
// does no harm, and checkLock that it is not used.
func (p *place) openLock(flags int) (*os.File, error) {
	name := p.lockName()
	open := func() (fd int, err error) {
		err = onFD(p.dir, func(dir int) error {
			fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
			return err
		})
		return fd, err
	}
	fd, err := open()
	if err != nil {
		// Say what stands there, if that is why: systems differ in what they
		// call a link, and Linux keeps even root from some files of others in
		// a sticky directory (fs.protected_regular).
		st, serr := p.stat(name)
		if serr != nil && errors.Is(err, fs.ErrPermission) && flags&unix.O_CREAT != 0 {
			return nil, p.closed(err)
		}
		if serr != nil {
			return nil, pathError("open", p.join(name), err)
		}
		if err := p.checkLock(st); err != nil {
			return nil, err
		}
		if !errors.Is(err, fs.ErrPermission) || flags&unix.O_CREAT == 0 {
			return nil, pathError("open", p.join(name), err)
		}
		// Ours, and not for us to open: a process with a strict umask was
		// killed before it could set the mode.
		if err := (perms.Spec{Mode: 0o600, UID: perms.Unchanged, GID: perms.Unchanged}).ApplyAt(p.dir, name); err != nil {
			return nil, err
		}
		if fd, err = open(); err != nil {
			return nil, pathError("open", p.join(name), err)
		}
	}
	// O_NONBLOCK has done its work, and would make os.NewFile ask the poller
	// to watch the file.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, pathError("fcntl", p.join(name), err)
	}
	f := os.NewFile(uintptr(fd), p.join(name))
	st, err := fstat(f)
	if err == nil {
		err = p.checkLock(st)
	}
	// Who can open the file can lock it, and so keep a server from starting.
	if err == nil && st.mode&0o7777 != 0o600 && flags&unix.O_CREAT != 0 {
		step("lock created")
		err = onFD(f, func(fd int) error { return unix.Fchmod(fd, 0o600) })
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (p *place) checkLock(st stat) error {
	file := p.join(p.lockName())
	switch {
	case st.kind() != unix.S_IFREG:
		return kindf(ErrUnsafeLock, "%s: not a regular file, which a lock file is (to mend: remove it)", file)
	case st.uid != os.Geteuid():
		return kindf(ErrUnsafeLock, "%s: owned by user %s, not by %s (to mend: remove it)", file, perms.UserName(st.uid), perms.UserName(os.Geteuid()))
	case st.links > 1: // none: removed just now, which tryLock notices
		// Somebody may have put a file of ours here under a second name, who
		// can write the directory. A second name elsewhere is no harm: FreeBSD
		// lets whoever finds a file link to it, such as the web server, which
		// must not be able to keep us from starting by that.
		dir, err := fstat(p.dir)
		if err != nil {
			return err
		}
		if dir.mode&0o022 == 0 {
			return nil
		}
		return kindf(ErrUnsafeLock, "%s: has %d links, a lock file has one (to mend: remove it)", file, st.links)
	}
	return nil
}

// unlock gives the lock back, also of duplicates of its descriptor: whoever has
// one must not keep the next server out.
func (o *ownedFile) unlock() error {
	rc, err := o.lock.SyscallConn()
	if err != nil {
		return err
	}
	err = rc.Control(func(fd uintptr) {
		ignoringEINTR(func() error { return unix.Flock(int(fd), unix.LOCK_UN) })
	})
	return err
}
