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
)

const (
	maxStderr    = 8 << 10 // bytes of standard error that are logged of a process
	stderrRecord = 256     // and in one record: twice as much fits, for what is escaped
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

// watch runs beside an answer, and after it until no process of the request is
// left. Then it releases the slot and closes released.
func (a *answer) watch(released chan<- struct{}) {
	stderr := make(chan struct{})
	go a.logStderr(stderr)
	a.interrupt()
	<-a.done
	a.cleanUp(stderr)
	close(released)
}

// interrupt interrupts a read of the output when the context is over, also
// because of -timeout, or when something else has held the pipe open for
// Times.Grace since the process exited.
func (a *answer) interrupt() {
	timeout := time.NewTimer(a.g.Timeout)
	defer timeout.Stop()
	select {
	case <-a.p.Exited:
	case <-timeout.C:
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

// cleanUp waits until no process of the request is left, and discards what they
// still write. stderr is closed when their standard error has been logged.
func (a *answer) cleanUp(stderr <-chan struct{}) {
	if !isClosed(a.p.Over) {
		a.p.Stdout.SetReadDeadline(time.Time{})
		go io.Copy(io.Discard, a.p.Stdout) // until it is closed below
	}
	<-a.p.Exited
	if !a.logged {
		a.logExit(slog.LevelWarn)
	}
	<-a.p.Over
	a.p.Stdout.Close()
	if a.p.Stdin != nil {
		a.p.Stdin.Close()
	}
	a.p.Stderr.SetReadDeadline(longAgo)
	<-stderr
	a.p.Stderr.Close()
	a.body.close()
	a.g.slots.release()
	a.g.running.Done()
}

// read reads output. It returns io.EOF at the end of the pipe. If the pipe is
// empty it also does when the context is over, and Times.Grace after the process
// has exited.
func (a *answer) read(p []byte) (int, error) {
	n, err := a.p.Stdout.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if n, err = tryRead(a.p.Stdout, p); n == 0 && err == nil {
			err = io.EOF
		}
	}
	return n, err
}

// tryRead reads from a pipe without waiting. It returns 0, nil if the pipe is
// empty.
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

// copy sends p and then more output: length bytes together, or everything if
// length is negative. It flushes before it waits for output. buf is its buffer, of
// which p may be a part. If the output ends early, missing is the rest of length;
// it is negative if length is. The error is that of the writer, or the cause if
// the context is over.
func (a *answer) copy(p, buf []byte, length int64) (missing int64, err error) {
	var eof error
	for {
		if len(p) > 0 {
			if _, err := a.w.Write(p); err != nil {
				return length, err
			}
		}
		if length > 0 {
			length -= int64(len(p))
		}
		if length == 0 || eof != nil {
			return length, nil
		}
		p = buf
		if length > 0 {
			p = buf[:min(int64(len(buf)), length)]
		}
		n, err := tryRead(a.p.Stdout, p)
		if n == 0 && err == nil {
			if err := a.w.Flush(); err != nil {
				return length, err
			}
			n, err = a.read(p)
		}
		if cause := context.Cause(a.ctx); cause != nil {
			return length, cause
		}
		p, eof = p[:n], err
	}
}

// logStderr logs what the command writes to standard error: the first 8 KiB, and
// the size of the rest.
func (a *answer) logStderr(done chan<- struct{}) {
	defer close(done)
	logged, rest := 0, 0
	note := func(p []byte) {
		n := min(len(p), maxStderr-logged)
		if n > 0 {
			a.log().Warn("stderr", "text", string(p[:n]))
		}
		logged += n
		rest += len(p) - n
	}
	buf := make([]byte, stderrRecord)
	var err error
	for n := 0; err == nil; note(buf[:n]) {
		n, err = a.p.Stderr.Read(buf)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// All processes of the request have exited, but another process holds
		// the pipe open. Read what it still contains.
		block := a.g.blocks.Get().(*[]byte)
		n, _ := tryRead(a.p.Stderr, *block)
		for p := range slices.Chunk((*block)[:n], stderrRecord) {
			note(p)
		}
		a.g.blocks.Put(block)
	}
	if rest > 0 {
		a.log().Warn("stderr truncated", "bytes", rest)
	}
}
