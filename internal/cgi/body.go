package cgi

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/onewake/onewake/internal/control"
)

var (
	errTooLarge = &Refusal{Status: 413, Reason: "body too large"}
	errNoRoom   = errors.New("no room for the body") // on disk, or of what is allowed there
)

// memoryBody is how much of a body is kept in memory, in bytes: what the pipe to
// a command usually holds. What is longer goes to a file, which is then the
// command's standard input.
const memoryBody = 64 << 10

// body is a request's body that has been read to its end.
type body struct {
	length   int64
	memory   []byte
	file     *control.Spool
	disk     *disk
	reserved int64 // of disk
}

// forget closes the file here. A process that has it goes on with it.
func (b *body) forget() {
	if b.file != nil {
		b.file.Close()
		b.file = nil
	}
}

// close gives everything back. The last process that reads the file is gone, or
// never was.
func (b *body) close() {
	b.forget()
	if b.disk != nil {
		b.disk.files.Add(-1)
		b.disk.bytes.Add(-b.reserved)
		b.disk = nil
	}
}

// disk counts the files of all bodies.
type disk struct {
	maxFiles, maxBytes int64
	files, bytes       atomic.Int64
}

// take takes the room of one more file.
func (d *disk) take(b *body) error {
	if d.files.Add(1) > d.maxFiles {
		d.files.Add(-1)
		return fmt.Errorf("%w: %d bodies are on disk already", errNoRoom, d.maxFiles)
	}
	b.disk = d
	return nil
}

// reserve takes room for n more bytes of b.
func (d *disk) reserve(b *body, n int64) error {
	b.reserved += n
	if d.bytes.Add(n) > d.maxBytes {
		return fmt.Errorf("%w: the bodies on disk would be larger than %d bytes", errNoRoom, d.maxBytes)
	}
	return nil
}

// readBody reads a body to its end, before the command is started: a slow client
// holds no slot, and no command sees half of a body.
func (g *Gateway) readBody(r *Request) (b *body, err error) {
	b = new(body)
	switch {
	case r.Length > g.MaxBody:
		return b, errTooLarge
	case g.slots.full():
		return b, errQueueFull
	case r.Body == nil || r.Length == 0:
	case r.Length > memoryBody:
		err = g.spool(r, b, make([]byte, 0, blockSize))
	case r.Length > 0:
		b.memory = make([]byte, r.Length)
		_, err = io.ReadFull(r.Body, b.memory)
		b.length = r.Length
	default:
		b.memory, err = io.ReadAll(io.LimitReader(r.Body, memoryBody+1))
		if b.length = int64(len(b.memory)); b.length > g.MaxBody {
			err = errTooLarge
		} else if err == nil && b.length > memoryBody { // there may be more
			err = g.spool(r, b, b.memory)
		}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = ErrBodyCut
	}
	return b, err
}

// spool puts a body into a file: what is in buf, and what is still to come.
func (g *Gateway) spool(r *Request, b *body, buf []byte) (err error) {
	if err := g.disk.take(b); err != nil {
		return err
	}
	if err := g.disk.reserve(b, max(r.Length, 0)); err != nil {
		return err
	}
	if b.file, err = g.Client.Spool(); err != nil {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	b.memory, b.length = nil, 0
	for {
		if b.length += int64(len(buf)); b.length > g.MaxBody {
			return errTooLarge
		}
		if r.Length < 0 {
			if err := g.disk.reserve(b, int64(len(buf))); err != nil {
				return err
			}
		}
		if _, err := b.file.Write(buf); err != nil {
			return fmt.Errorf("%w: %w", errNoRoom, err)
		}
		if b.length == r.Length || err == io.EOF && r.Length < 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var n int
		n, err = r.Body.Read(buf[:cap(buf)])
		buf = buf[:n]
	}
}
