package cgi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/control"
)

// maxStderr is how much of one process's standard error is logged, in bytes, and
// stderrSize how much of it with one record.
const (
	maxStderr  = 8 << 10
	stderrSize = 512
)

var longAgo = time.Unix(1, 0)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// interrupt ends a read of the output that would otherwise wait: at the end of
// the context, which is also that of -timeout, and some time after the process
// has ended, when something that it has left behind still holds the pipe.
func (a *answer) interrupt() {
	defer close(a.quiet)
	select {
	case <-a.p.Exited:
	case <-time.After(a.g.Timeout):
		if !isClosed(a.p.Exited) {
			a.cancel(ErrTimeout)
		}
	case <-a.ctx.Done():
	}
	if a.ctx.Err() == nil {
		a.p.Stdout.SetReadDeadline(time.Now().Add(a.g.Times.Grace))
		<-a.ctx.Done()
	}
	a.p.Stdout.SetReadDeadline(longAgo)
}

// finish sees to what is left of a process whose answer is over: what it still
// writes is thrown away, and its slot is free when nothing of it is left.
func (a *answer) finish() {
	<-a.quiet
	a.p.Stdout.SetReadDeadline(time.Time{})
	go io.Copy(io.Discard, a.p.Stdout) // until it is closed
	<-a.p.Exited
	if !a.told {
		a.failed(slog.LevelWarn)
	}
	<-a.p.Over
	a.p.Stdout.Close()
	if a.p.Stdin != nil {
		a.p.Stdin.Close()
	}
	a.p.Stderr.SetReadDeadline(longAgo)
	<-a.stderr
	a.p.Stderr.Close()
	a.body.close()
	a.g.slots.release()
	a.g.running.Done()
}

// exited waits for the end of the process, and takes its status. It returns
// false if our context is over. What the monitor has ended at its timeout, a
// moment before we would, or can tell nothing of any more, ends that too.
func (a *answer) exited(ctx context.Context) bool {
	select {
	case <-a.p.Exited:
	case <-ctx.Done():
	}
	switch {
	case !isClosed(a.p.Exited):
		return false
	case a.p.Err != nil:
		a.cancel(ErrEnding)
		return false
	case a.p.TimedOut:
		a.cancel(ErrTimeout)
	}
	st := a.p.Status
	a.r.Record.Exit, a.r.Record.ExitStatus = control.Describe(st), st.ExitStatus()
	if st.Signaled() {
		a.r.Record.ExitStatus = 128 + int(st.Signal())
	}
	return a.ctx.Err() == nil
}

// exitedSoon waits for the end of a process that has closed its output. Whoever
// works on behind a closed output keeps its answer for Times.Grace at most: a
// process that is killed closes its output too, a moment before its end is known.
func (a *answer) exitedSoon() bool {
	ctx, cancel := context.WithTimeout(a.ctx, a.g.Times.Grace)
	defer cancel()
	return a.exited(ctx)
}

// endedWell waits for the end of a process whose output has ended, and so its
// answer: a death by a signal spoils it.
func (a *answer) endedWell() bool {
	exited := a.exitedSoon()
	switch {
	case !exited && a.ctx.Err() != nil:
		a.halt()
		return false
	case exited && a.p.Status.Signaled():
		a.failed(slog.LevelError)
		a.r.Refuse(a.w, 502, "the command was killed")
		return false
	}
	return true
}

// failed tells, also to the log, whether the process has ended badly.
func (a *answer) failed(level slog.Level) bool {
	a.told = true
	st := a.p.Status
	switch {
	case a.p.Err != nil:
		return false
	case a.p.TimedOut:
		a.log().Log(context.Background(), level, "command failed", "exit", control.Describe(st), "ended", ErrTimeout)
	case st != 0:
		a.log().Log(context.Background(), level, "command failed", "exit", control.Describe(st))
	}
	return st != 0 || a.p.TimedOut
}

// end ends the process, and its request's record says why.
func (a *answer) end(why error) {
	a.told = true
	a.r.Record.Ended = reason(why)
	a.p.Cancel()
}

// reason is why a context has ended: without a cause, its client is gone.
func reason(cause error) error {
	if cause == context.Canceled {
		return ErrClientGone
	}
	return cause
}

// halt ends the process because its context is over, and answers if that is
// still possible.
func (a *answer) halt() {
	why := context.Cause(a.ctx)
	a.end(why)
	if errors.Is(why, ErrTimeout) {
		a.r.Refuse(a.w, 504, "the command took too long")
		return
	}
	a.w.Cut()
}

// lost ends the process because nobody takes its answer.
func (a *answer) lost(err error) {
	a.end(err)
	a.w.Cut()
}

// read reads output. It returns io.EOF at its end, which is that of the pipe. So
// it does when the pipe is empty and the context is over, or the process has been
// gone for Times.Grace.
func (a *answer) read(p []byte) (int, error) {
	n, err := a.p.Stdout.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if n, err = tryRead(a.p.Stdout, p); n == 0 && err == nil {
			err = io.EOF
		}
	}
	return n, err
}

// tryRead reads what is in a pipe. No bytes and no error: nothing is.
func tryRead(f *os.File, p []byte) (n int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(fd uintptr) {
		for n, err = syscall.Read(int(fd), p); err == syscall.EINTR; {
			n, err = syscall.Read(int(fd), p)
		}
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case err == syscall.EAGAIN:
		return 0, nil
	case n == 0 && err == nil:
		return 0, io.EOF
	}
	return max(n, 0), err
}

// send sends a part of the body. If the client is gone the process is ended.
func (a *answer) send(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if _, err := a.w.Write(p); err != nil {
		a.lost(err)
		return false
	}
	return true
}

// stream passes output on as it comes, and what is there before it waits for
// more: to its end or, if left is not negative, so many bytes of it. It returns
// false if the answer is over.
func (a *answer) stream(buf []byte, left int64) bool {
	for left != 0 {
		p := buf
		if left > 0 {
			p = buf[:min(int64(len(buf)), left)]
		}
		n, err := tryRead(a.p.Stdout, p)
		if n == 0 && err == nil {
			if err := a.w.Flush(); err != nil {
				a.lost(err)
				return false
			}
			n, err = a.read(p)
		}
		if a.ctx.Err() != nil {
			a.halt()
			return false
		}
		if !a.send(p[:n]) {
			return false
		}
		if left > 0 {
			left -= int64(n)
		}
		switch {
		case err == nil:
		case left <= 0:
			return true
		case a.endedWell():
			a.log().Error("response is shorter than its Content-Length", "missing", left)
			a.w.Cut()
			return false
		default:
			return false
		}
	}
	return true
}

// logStderr logs what the command writes to standard error, quoted, as it comes:
// 8 KiB of it, and how much more there was.
func (a *answer) logStderr() {
	defer close(a.stderr)
	logged, more := 0, 0
	note := func(p []byte) {
		keep := min(len(p), maxStderr-logged)
		if keep > 0 {
			a.log().Warn("stderr", "text", string(p[:keep]))
		}
		logged += keep
		more += len(p) - keep
	}
	buf := make([]byte, stderrSize)
	var err error
	for n := 0; err == nil; note(buf[:n]) {
		n, err = a.p.Stderr.Read(buf)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Nothing of the request is left, and somebody else holds the pipe.
		// What is in it is still read.
		block := a.g.blocks.Get().(*[]byte)
		n, _ := tryRead(a.p.Stderr, *block)
		for p := range slices.Chunk((*block)[:n], stderrSize) {
			note(p)
		}
		a.g.blocks.Put(block)
	}
	if more > 0 {
		a.log().Warn("stderr was longer", "bytes", more)
	}
}
