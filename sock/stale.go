package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A verdict is what a socket file turned out to be.
type verdict int

const (
	absent  verdict = iota
	stale           // left over, nobody listens
	alive           // somebody has it open
	mute            // ours, but without permission for us to ask
	refused         // not for us to ask
)

// kinds names the types of file that can stand in a socket's place.
var kinds = map[uint32]string{
	unix.S_IFREG: "a regular file",
	unix.S_IFDIR: "a directory",
	unix.S_IFLNK: "a symbolic link",
	unix.S_IFIFO: "a named pipe",
	unix.S_IFCHR: "a device",
	unix.S_IFBLK: "a device",
}

// clear makes the place free for a new socket: it removes a leftover file and
// refuses everything else. The caller holds the lock, so that what answers here
// is not one of ours.
func (p *place) clear() error {
	// A file that goes away by itself is looked for again, but not for ever.
	for range 10 {
		st, err := p.lookForSocket()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		v, err := p.ask(st)
		if v == mute {
			v, err = p.askAloud(st)
		}
		switch {
		case v == absent && err == nil:
			continue
		case v == alive:
			return inUse("answers")
		case v != stale:
			return err
		}
		step("stale")
		if _, err := p.remove(st); err != nil {
			return fmt.Errorf("leftover socket %s: %w", p.path, err)
		}
		step("cleared")
	}
	return inUse("comes and goes")
}

// lookForSocket looks at what stands at the path, which must be a socket.
func (p *place) lookForSocket() (stat, error) {
	st, err := p.stat(p.name)
	if err == nil && st.kind() != unix.S_IFSOCK {
		what := kinds[st.kind()]
		if what == "" {
			what = "something else"
		}
		return st, kindf(ErrNotSocket, "%s: %w but %s, move it away or use another path", p.path, ErrNotSocket, what)
	}
	return st, err
}

// ask finds out by connect(2) whether anybody listens. It never waits in a
// full queue: the descriptor does not block.
//
// A live server with a full queue is told from a stale file where the system
// can tell: Linux says EAGAIN, see unix(7). The others say ECONNREFUSED to both,
// so that the question is repeated for as long as refusalPatience.
func (p *place) ask(st stat) (verdict, error) {
	deadline := time.Now().Add(refusalPatience)
	for {
		err := connect(p.path)
		switch {
		case err == nil, err == unix.EAGAIN, err == unix.EINPROGRESS:
			return alive, nil
		case err == unix.EPROTOTYPE:
			// A datagram socket, say; it is open, or this would be a refusal.
			return alive, nil
		case err == unix.ECONNREFUSED:
			if !time.Now().Before(deadline) {
				return stale, nil
			}
			time.Sleep(20 * time.Millisecond)
		case err == unix.ENOENT, err == unix.ENOTSOCK:
			return absent, nil
		case errors.Is(err, fs.ErrPermission):
			if st.uid == os.Geteuid() && st.mode&0o200 == 0 {
				return mute, nil
			}
			return refused, fmt.Errorf("%s: connect: %w: a socket of user %s, whose server may be running (to mend: stop that server, remove the file)", p.path, err, perms.UserName(st.uid))
		default:
			return refused, &os.PathError{Op: "connect", Path: p.path, Err: err}
		}
	}
}

// askAloud is ask for a file of ours whose mode keeps us out, such as one left
// by a server with mode 0060. If it turns out to be alive it has its mode back.
func (p *place) askAloud(st stat) (verdict, error) {
	mode := int(st.mode & 0o777)
	spec := perms.Spec{Mode: mode | 0o200, UID: perms.Unchanged, GID: perms.Unchanged}
	if err := spec.ApplyAt(p.dir, p.name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return absent, nil
		}
		return refused, err
	}
	step("mode lent")
	st.mode |= 0o200
	v, err := p.ask(st)
	if v == alive || v == refused {
		spec.Mode = mode
		if now, serr := p.stat(p.name); serr == nil && now.sameFile(st) {
			err = collect(err, spec.ApplyAt(p.dir, p.name))
		}
	}
	return v, err
}

// connect tries to connect to a stream socket and hangs up at once.
func connect(path string) error {
	for {
		fd, err := socket(unix.AF_UNIX)
		if err != nil {
			return err
		}
		err = unix.SetNonblock(fd, true)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		unix.Close(fd)
		if err != unix.EINTR {
			return err
		}
	}
}
