// Package cgi makes an answer of a request and a command, by RFC 3875 (CGI/1.1)
// or with the command's output as the body. It knows neither HTTP nor FastCGI:
// a front hands it a [Request] and a [Writer].
//
// One request is one call of [Gateway.Serve], which goes from top to bottom:
// refuse, read the body, wait for a slot, start the command, pass its output
// on. The context that it is given ends it, with a cause that says why.
package cgi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/onewake/onewake/internal/control"
)

// NoAddr is the address of a peer that has none, one on a Unix socket.
const NoAddr = "<unix>"

// Why a request ends before its time: causes of its context, and errors of its
// writer.
var (
	ErrTimeout     = errors.New("timeout")              // -timeout has passed
	ErrClientGone  = errors.New("client gone")          // it has closed the connection, or aborted the request
	ErrEnding      = errors.New("service ending")       // the monitor is gone, or -drain is over
	ErrClientSlow  = errors.New("client does not read") // Times.IO has passed in a write
	errBadResponse = errors.New("malformed response")   // the command's
)

// What reading a body can fail with, besides [ErrClientGone].
var (
	ErrBodyStalled error = &Refusal{Status: 408, Reason: "body did not come in time"} // nothing of it came for Times.IO
	ErrBodyCut     error = &Refusal{Status: 400, Reason: "body ended too early"}      // it has ended before its length
	ErrBodyBad     error = &Refusal{Status: 400, Reason: "body is malformed"}         // it cannot be understood
)

// A Peer is who sent a request.
type Peer struct {
	Addr string // REMOTE_ADDR: an IP address, or NoAddr
	Port string // REMOTE_PORT, empty on a Unix socket
	UID  int    // the user at the other end of a Unix socket, -1 if unknown
}

// A Request is what a front has understood of a request.
type Request struct {
	Method string
	Target string // as the client wrote it, for the log
	Peer   Peer
	Client string // the client's address that the web server vouches for, for the log
	ID     string // the name of the request in all logs

	// Vars are the variables of the command, without CONTENT_LENGTH, which is
	// known for certain only when the body has been read.
	Vars   *control.Vars
	Script string // the name of a program of -scripts

	Query  string    // of the target, for -form
	Type   string    // Content-Type of the body, for -form
	Body   io.Reader // nil without one; its errors are those above
	Length int64     // of Body in bytes, -1 if it is not known before its end

	// Redirect makes this the request of a local redirect (RFC 3875 § 6.2.2):
	// it sets Vars and Script. It is nil where there is no such thing.
	Redirect func(location string) error

	// Wire tells how the request came, to the test page.
	Wire func() *Wire

	Record Record
}

// Wire is how a request came.
type Wire struct {
	Listener string  // as on the command line
	Unix     bool    // it is a Unix socket
	Local    bool    // no other machine can reach it
	Protocol string  // HTTP/1.1, HTTP/1.0 or FastCGI
	Keep     bool    // the connection is kept for more requests
	Fields   []Field // the header, or the parameters, as they came
}

// Record is what the access record tells beyond the request.
type Record struct {
	Received time.Time
	Status   int           // of the answer, 0 if none was begun
	Bytes    int64         // of its body that were sent
	Cut      bool          // it is not whole
	Queue    time.Duration // spent waiting for a slot
	Process  uint64        // the number of the last process, 0 if none was started
	Exit     string        // how it ended, empty if it had not when the answer was over

	// ExitStatus is Exit as a shell has it: 128 more than its number for a
	// signal, 0 while it is not known.
	ExitStatus int
	Ended      error  // why it was ended early
	Refused    string // why it was answered with an error
}

// A Field is one header field of an answer.
type Field struct{ Name, Value string }

// A Writer takes the answer. A write waits at most Times.IO for the client, and
// fails with ErrClientGone or ErrClientSlow.
type Writer interface {
	// Begin sends status and fields; length is that of the body, -1 if it is
	// not known.
	Begin(status int, fields []Field, length int64)
	// Write adds to the body. It may keep back what is small until Flush or
	// the end of the request.
	Write(p []byte) (int, error)
	Flush() error
	// Cut ends the answer so that the client can tell that it is not whole.
	Cut()
}

// A Handler answers requests: a [Gateway] or the test page. The cause of ctx says
// why a request ends early; where it is only cancelled its client is gone, as
// net/http has it.
type Handler interface {
	Serve(ctx context.Context, r *Request, w Writer)
}

// A Refusal is a request that is answered with an error.
type Refusal struct {
	Status int
	Reason string
	Retry  bool // the same may succeed in a moment
}

func (r *Refusal) Error() string { return r.Reason }

// Refuse answers with an error: a line of text that says why. After a part of
// another answer it can only cut that.
func (r *Request) Refuse(w Writer, status int, reason string) {
	r.Fail(w, &Refusal{Status: status, Reason: reason})
}

// Fail is [Request.Refuse] for an error: a [Refusal], or what ends a request
// without an answer.
func (r *Request) Fail(w Writer, err error) {
	var f *Refusal
	if !errors.As(err, &f) {
		r.Record.Ended = reason(err)
		w.Cut()
		return
	}
	if r.Record.Refused == "" {
		r.Record.Refused = f.Reason
	}
	if r.Record.Status != 0 {
		w.Cut()
		return
	}
	text := strconv.Itoa(f.Status) + " " + http.StatusText(f.Status) + ": " + f.Reason + "\n"
	fields := []Field{{"Content-Type", "text/plain; charset=utf-8"}}
	if f.Retry {
		fields = append(fields, Field{"Retry-After", "1"})
	}
	w.Begin(f.Status, fields, int64(len(text)))
	io.WriteString(w, text)
}
