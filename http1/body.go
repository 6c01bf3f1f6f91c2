package http1

import (
	"io"
	"os"
	"time"
)

type bodyState struct {
	active bool // the head is whole
	asked  bool // 100 (Continue) has been sent
	keep   int  // where in the inbox the body's bytes begin
	left   int64
	ch     chunks
}

// Read reads the request's body. At its end, and not before, it returns
// [io.EOF]; [io.ErrUnexpectedEOF] if the client stopped short of it,
// [os.ErrDeadlineExceeded] if it sent nothing for [Server.BodyTimeout], and a
// [*ProtocolError] if the chunked coding is wrong. It sends 100 (Continue)
// first if the client waits for that (RFC 9110 § 10.1.1).
func (x *Exchange) Read(p []byte) (int, error) {
	if x.bodyDone.Load() {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if x.Continue && !x.body.asked {
		x.body.asked = true
		if x.r == x.w {
			if err := x.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
				return 0, err
			}
		}
	}
	n, err := x.readBody(p)
	x.expires.Store(0)
	if err == io.EOF && !x.bodyDone.Load() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (x *Exchange) readBody(p []byte) (int, error) {
	if x.Chunked {
		return x.readChunked(p)
	}
	if int64(len(p)) > x.body.left {
		p = p[:x.body.left]
	}
	var n int
	var err error
	if x.r < x.w {
		n = copy(p, x.in.b[x.r:x.w])
		x.r += n
	} else {
		n, err = x.readSocket(p)
	}
	x.body.left -= int64(n)
	if x.body.left == 0 {
		x.bodyDone.Store(true)
	}
	return n, err
}

// readSocket reads past the inbox, straight into p.
func (x *Exchange) readSocket(p []byte) (int, error) {
	x.expire(x.srv.BodyTimeout)
	for {
		n, err := x.nc.Read(p)
		if err == nil || !os.IsTimeout(err) || n > 0 {
			return n, err
		}
		x.nc.SetReadDeadline(time.Time{})
		if expired(&x.expires) || x.aborted.Load() {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (x *Exchange) readChunked(p []byte) (n int, err error) {
	for {
		skip, data, done, perr := x.body.ch.next(x.in.b[x.r:x.w])
		if perr != nil {
			return n, perr
		}
		x.r += skip
		switch {
		case done:
			x.bodyDone.Store(true)
			if n > 0 {
				return n, nil
			}
			return 0, io.EOF
		case data > 0:
			m := copy(p[n:], x.in.b[x.r:x.r+data])
			x.r += m
			x.body.ch.unread(data - m)
			if n += m; n == len(p) {
				return n, nil
			}
		case n > 0:
			return n, nil
		default:
			x.expire(x.srv.BodyTimeout)
			if err := x.fill(); err != nil {
				return 0, err
			}
		}
	}
}

// unread gives back the last n bytes of the data that next told of.
func (c *chunks) unread(n int) {
	if n > 0 {
		c.left += int64(n)
		c.state = chunkData
	}
}

// BodyRead tells whether all of the body has been read.
func (x *Exchange) BodyRead() bool { return x.bodyDone.Load() }

// AbortRead makes a [Exchange.Read] on another goroutine return, and all that
// follow for this request. Of all methods it and Read alone may be called
// while another goroutine sends.
func (x *Exchange) AbortRead() {
	x.aborted.Store(true)
	x.nc.SetReadDeadline(time.Unix(1, 0))
}
