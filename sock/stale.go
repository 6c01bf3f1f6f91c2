package sock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// errUnprobed means that the mode of our own socket file forbids us to connect.
var errUnprobed = errors.New("not probed")

// removeLeftover removes a leftover socket file, and fails if anything else is at
// the path. The caller holds the lock. So a server that answers does not use this
// package, or it was just killed: the kernel may release the lock before it
// closes the socket. AnswerWait is for the second case.
func (s *socketFile) removeLeftover(ctx context.Context) error {
	until := time.Now().Add(cmp.Or(s.config.AnswerWait, answerWait))
	st, err := s.inspect(ctx, until)
	if err == errUnprobed {
		err = s.probeWritable(ctx, st, until)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	step(ctx, "stale")
	if err := s.remove(st); err != nil {
		return fmt.Errorf("leftover socket %s: %w", s.path, err)
	}
	step(ctx, "removed")
	return nil
}

// inspect finds out what is at the path, and changes nothing. Without an error it
// is a leftover that we may remove. If nothing is there, the error is a
// [fs.ErrNotExist].
func (s *socketFile) inspect(ctx context.Context, until time.Time) (st stat, err error) {
	if st, err = s.statSocket(); err == nil {
		err = s.probe(ctx, st, until)
	}
	us := os.Geteuid()
	if err == nil && s.dirStat.mode&unix.S_ISVTX != 0 && us != 0 && us != s.dirStat.uid && us != st.uid { // see sticky(7)
		err = failf(NotRemovable, s.path, fs.ErrPermission, "leftover socket %s: owned by user %s, not by %s",
			s.path, perms.UserName(st.uid), perms.UserName(us))
	}
	return st, err
}

// statSocket looks at what is at the path, which must be a socket.
func (s *socketFile) statSocket() (stat, error) {
	st, err := s.stat(s.name)
	if err == nil && st.kind() != unix.S_IFSOCK {
		what := map[uint32]string{unix.S_IFREG: "a regular file", unix.S_IFDIR: "a directory",
			unix.S_IFLNK: "a symbolic link", unix.S_IFIFO: "a named pipe"}[st.kind()]
		err = fmt.Errorf("%s: %w but %s, move it away or use another path", s.path, ErrNotSocket, cmp.Or(what, "something else"))
	}
	return st, err
}

// probe connects to find out whether a server listens. It returns nil if none
// does. A server that answers has until the given time to close the connection.
//
// Linux reports a full queue as EAGAIN, see unix(7). Other systems report
// ECONNREFUSED for a full queue as well as for a leftover. They are asked again
// for RefusalWait.
func (s *socketFile) probe(ctx context.Context, st stat, until time.Time) error {
	var refusedSince time.Time
	for closed := 0; closed < 10; { // a live server may close each connection
		now := time.Now()
		c, err := dial(s.path)
		switch {
		case err == nil:
			step(ctx, "answered")
			alive := !closesBefore(ctx, c, until)
			c.Close()
			if alive && ctx.Err() == nil {
				return taken("answers")
			}
			closed, refusedSince = closed+1, time.Time{}
		case err == unix.EAGAIN, err == unix.EPROTOTYPE: // EPROTOTYPE: a live datagram socket
			return taken("answers")
		case err == unix.ECONNREFUSED:
			if refusedSince.IsZero() {
				refusedSince = now
			}
			if now.Sub(refusedSince) >= s.config.refusalWait() {
				return nil
			}
			step(ctx, "refused")
			pause(ctx, 20*time.Millisecond)
		case errors.Is(err, fs.ErrPermission) && st.uid == os.Geteuid() && st.mode&0o200 == 0:
			return errUnprobed
		case errors.Is(err, fs.ErrPermission):
			return failf(NoAnswer, s.path, nil, "%s: connect: %w: a socket of user %s, whose server may be running",
				s.path, err, perms.UserName(st.uid))
		default:
			return &os.PathError{Op: "connect", Path: s.path, Err: err}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: stopped while connecting to it: %w", s.path, context.Cause(ctx))
		}
	}
	return taken("accepts connections and closes them")
}

// probeWritable is probe for a file of ours with a mode such as 0060: the owner
// gets write permission during the probe.
func (s *socketFile) probeWritable(ctx context.Context, st stat, until time.Time) error {
	chmod := func(mode uint32) error {
		return perms.Spec{Mode: perms.Set(int(mode & 0o777))}.ApplyAt(s.dir, s.name)
	}
	if err := chmod(st.mode | 0o200); err != nil {
		return err
	}
	step(ctx, "writable")
	writable := st
	writable.mode |= 0o200
	err := s.probe(ctx, writable, until)
	if now, serr := s.stat(s.name); err != nil && serr == nil && now.sameFile(st) {
		err = collect(err, chmod(st.mode))
	}
	return err
}

// dial connects to a stream socket. It does not wait if the queue is full, because
// the descriptors of package net do not block.
func dial(path string) (net.Conn, error) {
	c, err := net.Dial("unix", path)
	if errno := unix.Errno(0); errors.As(err, &errno) {
		err = errno
	}
	return c, err
}

// closesBefore reports whether the server closes the connection before the given
// time, as the kernel does for a process that exits. It waits on one connection:
// repeated ones could fill the queue of a busy server, which FreeBSD then reports
// like a dead one.
func closesBefore(ctx context.Context, c net.Conn, until time.Time) bool {
	c.SetReadDeadline(until)
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	n, err := c.Read(make([]byte, 1))
	return n == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
}
