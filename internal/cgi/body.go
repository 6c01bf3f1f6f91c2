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
	errNoSpace  = errors.New("no space for the body") // or a limit of disk is reached
)

// memoryBody is the size in bytes of the largest body that is kept in memory. It
// fits into the pipe to a command. A larger body goes to a spool file, which then
// is the command's standard input.
const memoryBody = 64 << 10

// body is the body of a request. It has been read to its end.
type body struct {
	length   int64
	memory   []byte
	file     *control.Spool
	disk     *disk // nil unless there is or was a file
	reserved int64 // bytes of disk
}

// closeFile closes this process's descriptor. A command that has the file as its
// standard input keeps it.
func (b *body) closeFile() {
	if b.file != nil {
		b.file.Close()
		b.file = nil
	}
}

// close releases everything. Call it when no process has the file open.
func (b *body) close() {
	b.closeFile()
	if b.disk != nil {
		b.disk.files.Add(-1)
		b.disk.bytes.Add(-b.reserved)
		b.disk = nil
	}
}

// disk limits the spool files.
type disk struct {
	maxFiles, maxBytes int64
	files, bytes       atomic.Int64
}

// addFile reserves one file for b.
func (d *disk) addFile(b *body) error {
	if d.files.Add(1) > d.maxFiles {
		d.files.Add(-1)
		return fmt.Errorf("%w: already %d bodies on disk", errNoSpace, d.maxFiles)
	}
	b.disk = d
	return nil
}

// addBytes reserves n more bytes for b.
func (d *disk) addBytes(b *body, n int64) error {
	b.reserved += n
	if d.bytes.Add(n) > d.maxBytes {
		return fmt.Errorf("%w: the bodies on disk would exceed %d bytes", errNoSpace, d.maxBytes)
	}
	return nil
}

// readBody reads the whole body. The command is started afterwards, so that a
// slow client does not occupy a slot and no command gets an incomplete body. The
// result is not nil and must be closed even if there is an error.
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

// spool writes buf and the rest of the body to a spool file.
func (g *Gateway) spool(r *Request, b *body, buf []byte) (err error) {
	if err := g.disk.addFile(b); err != nil {
		return err
	}
	if err := g.disk.addBytes(b, max(r.Length, 0)); err != nil {
		return err
	}
	if b.file, err = g.Client.Spool(); err != nil {
		return fmt.Errorf("%w: %w", errNoSpace, err)
	}
	b.memory, b.length = nil, 0
	for {
		if b.length += int64(len(buf)); b.length > g.MaxBody {
			return errTooLarge
		}
		if r.Length < 0 {
			if err := g.disk.addBytes(b, int64(len(buf))); err != nil {
				return err
			}
		}
		if _, err := b.file.Write(buf); err != nil {
			return fmt.Errorf("%w: %w", errNoSpace, err)
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
