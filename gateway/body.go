package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/nbio"
)

const (
	// readAhead is how much of a body is read before a process is started for
	// it, so that a client that sends slowly does not hold a slot.
	readAhead = 1 << 20
	// maxMemory is what all bodies in memory may take together; past it a
	// chunked body goes to a file at once, and others are not read ahead.
	maxMemory = 64 << 20
)

// body is a request's body on its way to the command: bytes in memory, then
// a file or the connection.
type body struct {
	g      *Gateway
	length int64 // all of it
	mem    []byte
	file   *os.File // what comes after mem
	rest   bool     // what comes after mem is still to be read from the client
}

func (b *body) any() bool { return b.length > 0 }

func (b *body) lengthString() string { return strconv.FormatInt(b.length, 10) }

func (b *body) close() {
	if b.mem != nil {
		b.g.memory.Add(-int64(cap(b.mem)))
		b.mem = nil
	}
	if b.rest {
		b.rest = false
		b.g.streams.Add(-1)
	}
	if b.file != nil {
		b.file.Close()
		b.file = nil
		b.g.files.Add(-1)
	}
}

// readBody reads ahead. If that fails the request has been answered.
func (g *Gateway) readBody(x *http1.Exchange) (*body, bool) {
	b := &body{g: g, length: max(x.Length, 0)}
	var err error
	switch {
	case x.Chunked:
		err = b.readChunked(x)
	case b.length > 0:
		err = b.readAhead(x, min(b.length, readAhead))
		// 100 (Continue) is for this goroutine to send, before the answer.
		asked := !x.Continue || len(b.mem) > 0
		if err == nil && int64(len(b.mem)) < b.length && !(asked && b.stream()) {
			err = b.spool(x)
		}
	}
	if err == nil {
		return b, true
	}
	b.close()
	var perr *http1.ProtocolError
	switch {
	case errors.As(err, &perr):
		x.Error(perr.Status, perr.Reason)
	case os.IsTimeout(err):
		x.Error(408, "body did not come in time")
	case errors.Is(err, errTooLarge):
		x.Error(413, "body too large")
	case errors.Is(err, errSpool):
		g.log(x.Value.(*Record), slog.LevelError, "cannot keep a body", slog.String("error", err.Error()))
		x.ErrorRetry(503, "no room for the body", retryAfter)
	default:
		x.Cut() // the client is gone
	}
	return nil, false
}

var (
	errTooLarge = errors.New("body too large")
	errSpool    = errors.New("spool")
)

// grow makes room in mem, within the bounds of all bodies together. Room is
// taken as bytes come, not as they are announced.
func (b *body) grow(limit int) bool {
	n := min(max(2*cap(b.mem), 4<<10), limit)
	more := int64(n - cap(b.mem))
	if more <= 0 || b.g.memory.Add(more) > maxMemory {
		if more > 0 {
			b.g.memory.Add(-more)
		}
		return false
	}
	m := make([]byte, len(b.mem), n)
	copy(m, b.mem)
	b.mem = m
	return true
}

// readAhead fills mem with the next n bytes, or fewer for want of memory.
func (b *body) readAhead(x *http1.Exchange, n int64) error {
	for int64(len(b.mem)) < n {
		if len(b.mem) == cap(b.mem) && !b.grow(int(n)) {
			return nil
		}
		m, err := x.Read(b.mem[len(b.mem):cap(b.mem)])
		b.mem = b.mem[:len(b.mem)+m]
		if err != nil {
			return err
		}
	}
	return nil
}

// readChunked reads a body of unknown length to its end.
func (b *body) readChunked(x *http1.Exchange) error {
	for {
		if len(b.mem) == cap(b.mem) && !b.grow(readAhead) {
			return b.spool(x)
		}
		m, err := x.Read(b.mem[len(b.mem):cap(b.mem)])
		b.mem = b.mem[:len(b.mem)+m]
		b.length += int64(m)
		if b.length > b.g.MaxBody {
			return errTooLarge
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// stream has the rest of the body read while the process runs. Only half of
// the slots are for such clients, since one that stops in the middle holds its
// slot: the others' bodies are put into files first.
func (b *body) stream() bool {
	if b.g.streams.Add(1) > int64(b.g.MaxProcs/2) {
		b.g.streams.Add(-1)
		return false
	}
	b.rest = true
	return true
}

// spool puts the rest of a body into a file.
func (b *body) spool(x *http1.Exchange) error {
	block := blockPool.Get().(*http1.Block)
	defer blockPool.Put(block)
	buf := block.Data()
	for {
		m, err := x.Read(buf)
		if x.Chunked {
			b.length += int64(m)
		}
		if b.length > b.g.MaxBody {
			return errTooLarge
		}
		if m > 0 {
			if b.file == nil {
				f, err := b.g.openFile()
				if err != nil {
					return err
				}
				b.file = f
			}
			if _, err := b.file.Write(buf[:m]); err != nil {
				return fmt.Errorf("%w: %w", errSpool, err)
			}
		}
		if err == io.EOF {
			if b.file != nil {
				if _, err := b.file.Seek(0, io.SeekStart); err != nil {
					return fmt.Errorf("%w: %w", errSpool, err)
				}
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// openFile gets a file from the monitor. No more are open at once than
// requests can run or wait, which bounds the room that they take on the disk.
func (g *Gateway) openFile() (*os.File, error) {
	if g.files.Add(1) > int64(g.MaxProcs+g.MaxQueue) {
		g.files.Add(-1)
		return nil, fmt.Errorf("%w: too many files are in use", errSpool)
	}
	f, err := g.Client.Spool()
	if err != nil {
		g.files.Add(-1)
		return nil, fmt.Errorf("%w: %w", errSpool, err)
	}
	return f, nil
}

// feed gives the command its body. What the pipe takes at once is written
// here; for the rest there is a goroutine.
func (r *run) feed() {
	fd := r.p.Stdin
	if fd < 0 {
		return
	}
	b := r.body
	rest := b.mem
	if b.file == nil && !b.rest {
		for len(rest) > 0 {
			n, err := nbio.Write(fd, rest)
			if err != nil && err != unix.EAGAIN {
				rest = nil // a command need not read its body
			}
			if err != nil {
				break
			}
			rest = rest[n:]
		}
		if len(rest) == 0 {
			nbio.Close(fd)
			return
		}
	}
	if b.length > streamPipe {
		nbio.GrowPipe(fd, streamPipe)
	}
	p := &pump{stdin: os.NewFile(uintptr(fd), "stdin"), done: make(chan struct{})}
	r.mu.Lock()
	r.pump = p
	r.mu.Unlock()
	go p.run(r, rest)
}

// pump writes a body into the command's stdin.
type pump struct {
	stdin *os.File
	done  chan struct{}
}

func (p *pump) run(r *run, mem []byte) {
	defer close(p.done)
	if p.write(r, mem) {
		p.stdin.Close()
	}
}

// write returns whether stdin can be closed: the command has all of the body,
// or wants no more of it. The end of half a body looks like that of a whole
// one, so it must not come before the command's own.
func (p *pump) write(r *run, mem []byte) bool {
	if _, err := p.stdin.Write(mem); err != nil {
		return unwanted(err)
	}
	if !r.body.rest && r.body.file == nil {
		return true
	}
	block := blockPool.Get().(*http1.Block)
	defer blockPool.Put(block)
	buf := block.Data()
	if r.body.file != nil {
		for {
			n, err := r.body.file.Read(buf)
			if _, werr := p.stdin.Write(buf[:n]); werr != nil {
				return unwanted(werr)
			}
			if err != nil {
				return err == io.EOF
			}
		}
	}
	for {
		n, err := r.x.Read(buf)
		if _, werr := p.stdin.Write(buf[:n]); werr != nil {
			return unwanted(werr)
		}
		if err == io.EOF {
			// Only now can the client be watched.
			r.mu.Lock()
			r.watchClient()
			r.mu.Unlock()
			return true
		}
		if err != nil {
			r.interrupt(clientGone)
			return false
		}
	}
}

// unwanted tells whether a write failed because the command has closed its
// stdin, not because the pump has been stopped.
func unwanted(err error) bool { return errors.Is(err, unix.EPIPE) }

// close stops the pump and waits for it. stdin may be open still.
func (p *pump) close(x *http1.Exchange) {
	select {
	case <-p.done:
		return
	default:
	}
	p.stdin.SetWriteDeadline(time.Unix(1, 0))
	if !x.BodyRead() {
		x.AbortRead()
	}
	<-p.done
}

// leave ends a pump. Its stdin, if open still, is closed when the process is
// gone: now, or by exit.
func (r *run) leave(p *pump) {
	p.close(r.x)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stdin = p.stdin; r.exited {
		r.stdin.Close()
	}
}
