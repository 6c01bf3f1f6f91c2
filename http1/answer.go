package http1

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/nbio"
)

// BlockSize is how many bytes of data a [Block] holds.
const BlockSize = 64 << 10

const (
	blockHead = 2 << 10 // room before the data for an answer's head
	blockTail = 16      // room behind it for the end of a chunk and of a body
)

// A Block carries a part of an answer's body, with room around it for the head
// and the chunked coding, so that each part takes one write(2) and no copy.
type Block struct {
	b [blockHead + BlockSize + blockTail]byte
}

// Data is where the handler puts its bytes.
func (b *Block) Data() []byte { return b.b[blockHead : blockHead+BlockSize : blockHead+BlockSize] }

// ErrCut is what sending returns once an answer has been cut.
var ErrCut = errors.New("answer has been cut")

type answer struct {
	started bool // the head has been written
	ended   bool // the last byte has been written
	chunked bool
	noBody  bool // HEAD, 204 or 304
	close   bool // the connection ends with this answer
	dated   bool // the handler gave a Date
	named   bool // the handler gave a Server
	length  int64
	left    int64 // of a body of known length
}

func (a *answer) reset() { *a = answer{} }

// AddField adds a field line to the answer's head, before [Exchange.Begin].
// The caller sees to it that neither part holds a control character.
// Content-Length, Transfer-Encoding and Connection are not for the caller.
func (x *Exchange) AddField(name, value []byte) {
	h := append(x.in.head, name...)
	h = append(h, ':', ' ')
	h = append(h, value...)
	x.in.head = append(h, '\r', '\n')
	switch {
	case fold(name, "date"):
		x.out.dated = true
	case fold(name, "server"):
		x.out.named = true
	}
}

// Begin fixes the status and how the end of the body is marked: by its length
// in bytes if that is 0 or more, else by the chunked coding, else (HTTP/1.0)
// by the end of the connection. Nothing is written before the first
// [Exchange.Send].
func (x *Exchange) Begin(status int, length int64) {
	a := &x.out
	x.Status = status
	a.length, a.left = length, max(length, 0)
	a.noBody = status == 204 || status == 304 || string(x.Method) == "HEAD"
	a.close = !x.KeepAlive || x.srv.phase.Load() != serving || !x.bodyDone.Load()
	if length < 0 && !a.noBody {
		if x.Minor == 1 {
			a.chunked = true
		} else {
			a.close = true
		}
	}
}

// Started tells whether anything of the answer may have reached the client.
func (x *Exchange) Started() bool { return x.out.started }

// NoBody tells whether an answer that has begun carries no body whatever is
// sent: to HEAD, and 204 and 304 (RFC 9110 § 6.4.1).
func (x *Exchange) NoBody() bool { return x.out.noBody }

// Send writes b.Data()[from:to] as the next part of the body, and marks its
// end if last is set. What goes past the announced length is dropped; to stop
// short of it is a reason to call [Exchange.Cut], and Send does it.
func (x *Exchange) Send(b *Block, from, to int, last bool) error {
	a := &x.out
	if x.WasCut {
		return ErrCut
	}
	if a.noBody {
		to = from
	} else if a.length >= 0 {
		to = from + int(min(a.left, int64(to-from)))
		a.left -= int64(to - from)
	}
	wire := x.in.wire[:0]
	if !a.started {
		wire = x.appendHead(wire)
	}
	n := to - from
	if a.chunked && n > 0 {
		wire = strconv.AppendInt(wire, int64(n), 16)
		wire = append(wire, '\r', '\n')
	}
	x.in.wire = wire[:0]
	from, to = from+blockHead, to+blockHead
	if a.chunked {
		if n > 0 {
			to += copy(b.b[to:], "\r\n")
		}
		if last {
			to += copy(b.b[to:], "0\r\n\r\n")
		}
	}
	if len(wire) <= from {
		from -= copy(b.b[from-len(wire):from], wire)
	} else if err := x.write(wire); err != nil {
		return err
	}
	a.started = true
	x.Sent += int64(n)
	if to > from {
		if err := x.writeBody(b.b[from:to]); err != nil {
			return err
		}
	}
	if last {
		if a.left > 0 && !a.noBody {
			x.Cut()
			return ErrCut
		}
		a.ended = true
	}
	return nil
}

// Answer sends a whole answer whose body is at hand.
func (x *Exchange) Answer(status int, contentType string, body []byte) error {
	if x.WasCut {
		return ErrCut
	}
	if contentType != "" {
		x.AddField([]byte("Content-Type"), []byte(contentType))
	}
	x.Begin(status, int64(len(body)))
	wire := x.appendHead(x.in.wire[:0])
	if !x.out.noBody {
		wire = append(wire, body...)
		x.Sent = int64(len(body))
	}
	x.in.wire = wire[:0]
	x.out.started = true
	err := x.write(wire)
	x.out.ended = err == nil
	return err
}

// Error drops the fields added so far and answers with a status and a line of
// text. It does nothing once something has been sent.
func (x *Exchange) Error(status int, reason string) error {
	if x.out.started || x.WasCut {
		return ErrCut
	}
	x.in.head = x.in.head[:0]
	return x.errorBody(status, reason)
}

// ErrorRetry is [Exchange.Error] with a Retry-After of the given seconds
// (RFC 9110 § 10.2.3).
func (x *Exchange) ErrorRetry(status int, reason string, seconds int) error {
	if x.out.started || x.WasCut {
		return ErrCut
	}
	x.in.head = strconv.AppendInt(append(x.in.head[:0], "Retry-After: "...), int64(seconds), 10)
	x.in.head = append(x.in.head, '\r', '\n')
	return x.errorBody(status, reason)
}

func (x *Exchange) errorBody(status int, reason string) error {
	x.out.reset()
	text := strconv.Itoa(status) + " " + StatusText(status)
	if reason != "" {
		text += ": " + reason
	}
	return x.Answer(status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

// Cut ends the connection in the middle of the answer, so that the client sees
// a truncated one and not a wrong one.
func (x *Exchange) Cut() {
	x.WasCut = true
	x.out.ended = false
}

// endAnswer tells whether the connection can take another request.
func (x *Exchange) endAnswer() bool {
	x.in.head = x.in.head[:0]
	if !x.out.ended {
		x.WasCut = true
		return false
	}
	return !x.out.close
}

func (x *Exchange) appendHead(b []byte) []byte {
	a := &x.out
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(x.Status), 10)
	b = append(b, ' ')
	b = append(b, StatusText(x.Status)...)
	b = append(b, '\r', '\n')
	if !a.dated {
		b = append(b, date()...)
	}
	if !a.named && x.srv.Name != "" {
		b = append(b, "Server: "...)
		b = append(b, x.srv.Name...)
		b = append(b, '\r', '\n')
	}
	b = append(b, x.in.head...)
	switch {
	case a.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case a.length >= 0 && x.Status != 204 && x.Status != 304:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, a.length, 10)
		b = append(b, '\r', '\n')
	}
	if a.close {
		b = append(b, "Connection: close\r\n"...)
	} else if x.Minor == 0 {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, '\r', '\n')
}

// tryWrite runs inside RawConn.Write: false means wait until there is room.
// Whatever the client has taken buys it another WriteTimeout.
func (x *Exchange) tryWrite(fd uintptr) bool {
	for len(x.wb) > 0 {
		var n int
		n, x.werr = nbio.Write(int(fd), x.wb)
		if x.werr == unix.EAGAIN {
			x.werr = nil
			return !x.mayWait
		}
		if x.werr != nil {
			return true
		}
		if x.wb = x.wb[n:]; x.mayWait {
			x.writeDeadline()
		}
	}
	return true
}

func (x *Exchange) writeDeadline() {
	x.wexpires.Store(deadline(x.srv.WriteTimeout))
}

// write writes all of b, or cuts the answer.
func (x *Exchange) write(b []byte) error {
	x.wb = b
	x.mayWait = false
	err := x.rc.Write(x.writef)
	if err == nil && x.werr == nil && len(x.wb) == 0 {
		return nil
	}
	if err != nil && !os.IsTimeout(err) || x.werr != nil {
		x.Cut()
		return errors.Join(err, x.werr)
	}
	x.writeDeadline()
	return x.flush(0)
}

// writeBody is write, with the patience of SendSome.
func (x *Exchange) writeBody(b []byte) error {
	if x.patience == 0 {
		return x.write(b)
	}
	x.wb = b
	x.writeDeadline()
	return x.flush(x.patience)
}

// flush goes on with what write has left; d bounds the wait if it is not 0.
func (x *Exchange) flush(d time.Duration) error {
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	x.mayWait = true
	for {
		x.nc.SetWriteDeadline(until)
		err := x.rc.Write(x.writef)
		if err == nil {
			err = x.werr
		}
		switch {
		case err == nil:
			x.wexpires.Store(0)
			return nil
		case !os.IsTimeout(err):
			x.wexpires.Store(0)
			x.Cut()
			return err
		case expired(&x.wexpires): // tryWrite has put it off if anything was taken
			x.wexpires.Store(0)
			x.Cut()
			return os.ErrDeadlineExceeded
		case d > 0 && !time.Now().Before(until):
			return ErrSlow
		}
	}
}

// ErrSlow is what [Exchange.SendSome] and [Exchange.Flush] return if the
// client does not take what it is given.
var ErrSlow = errors.New("client is slow")

// SendSome is [Exchange.Send] without last, that waits at most d for the
// client. After ErrSlow the rest of b is still to be written: b must be kept
// as it is, and nothing else sent, until [Exchange.Flush] returns nil.
func (x *Exchange) SendSome(b *Block, from, to int, d time.Duration) error {
	x.patience = d
	err := x.Send(b, from, to, false)
	x.patience = 0
	return err
}

// Flush goes on with what SendSome has left, for at most d.
func (x *Exchange) Flush(d time.Duration) error {
	if x.WasCut {
		return ErrCut
	}
	return x.flush(d)
}

// dateLine is the Date field of one second (RFC 9110 § 6.6.1).
type dateLine struct {
	second int64
	line   []byte
}

var dateNow atomic.Pointer[dateLine]

func date() []byte {
	now := time.Now()
	if d := dateNow.Load(); d != nil && d.second == now.Unix() {
		return d.line
	}
	d := &dateLine{second: now.Unix()}
	d.line = now.UTC().AppendFormat(nil, "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")
	dateNow.Store(d)
	return d.line
}

// EqualFold compares a field name with s in any case (RFC 9110 § 5.1).
func EqualFold(name []byte, s string) bool { return fold(name, s) }

// TrimSpace removes optional white space (RFC 9110 § 5.6.3).
func TrimSpace(b []byte) []byte { return bytes.Trim(b, " \t") }
