// Package cgi answers requests with the output of a command: according to
// RFC 3875 (CGI/1.1), or with the output as the body. It does not depend on HTTP
// or FastCGI: package front calls [Gateway.Serve] with a [Request] and a
// [Writer].
//
// Serve reads the body, waits for a slot, starts the command and copies its
// output. Canceling its context terminates the command; the cause is logged.
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

// NoAddr stands for the address of a peer on a Unix socket, which has none.
const NoAddr = "<unix>"

// Reasons for which a request ends early: causes of its context, and errors of
// its writer.
var (
	ErrTimeout     = errors.New("timeout")              // the command ran longer than -timeout
	ErrClientGone  = errors.New("client gone")          // it closed the connection or aborted the request
	ErrEnding      = errors.New("service ending")       // the monitor has exited, or -drain has passed
	ErrClientSlow  = errors.New("client does not read") // a write took longer than Times.IO
	errBadResponse = errors.New("malformed response")   // of the command
)

// ErrVarsTooLarge refuses a request whose variables cannot be passed to a command.
var ErrVarsTooLarge error = &Refusal{Status: 431, Reason: "variables too large for a command's environment"}

// Errors of reading a body, besides [ErrClientGone].
var (
	ErrBodyStalled error = &Refusal{Status: 408, Reason: "timeout while reading the body"} // a read took longer than Times.IO
	ErrBodyCut     error = &Refusal{Status: 400, Reason: "body is incomplete"}             // it is shorter than its length
	ErrBodyBad     error = &Refusal{Status: 400, Reason: "body is malformed"}              // for example a chunk of it
)

// A Peer is the other end of a connection.
type Peer struct {
	Addr string // REMOTE_ADDR: an IP address, or NoAddr
	Port string // REMOTE_PORT; empty on a Unix socket
	UID  int    // user of a peer on a Unix socket; -1 if unknown
}

// A Request is a parsed request.
type Request struct {
	Method string
	Target string // as it was sent, for the log
	Peer   Peer
	Client string // the client's address according to the web server, for the log
	ID     string // identifies the request in logs

	// Vars are the variables of the command. The handler adds CONTENT_LENGTH
	// when it has read the body.
	Vars   *control.Vars
	Script string // name of the script, with -scripts

	Query  string    // query string, for -form
	Type   string    // Content-Type, for -form
	Body   io.Reader // nil if there is none
	Length int64     // length of Body in bytes; -1 if unknown

	// Redirect follows a local redirect (RFC 3875 § 6.2.2): it sets Vars, Script,
	// Query and Type. If it is nil, all redirects go to the client.
	Redirect func(location string) error

	// Wire returns how the request was received, for the test page.
	Wire func() *Wire

	Record Record
}

// Wire is how a request was received.
type Wire struct {
	Listener string  // as on the command line
	Unix     bool    // the listener is a Unix socket
	Local    bool    // no other machine can reach the listener
	Protocol string  // HTTP/1.1, HTTP/1.0 or FastCGI
	Keep     bool    // the connection is kept for more requests
	Fields   []Field // header or parameters as they were sent
}

// Record is the part of the access record that is not in [Request].
type Record struct {
	Received time.Time
	Status   int           // 0 if the answer was not begun
	Bytes    int64         // bytes of the body sent
	Cut      bool          // the answer is incomplete
	Queue    time.Duration // time spent waiting for a slot
	Process  uint64        // number of the last process; 0 if none was started
	Exit     string        // its exit status or signal; empty if it was still running

	// ExitStatus is Exit as in a shell: for a signal it is 128 plus the number.
	// It is 0 if Exit is empty.
	ExitStatus int
	Ended      error  // reason for which the request ended early
	Refused    string // reason for an answer with an error
}

// A Field is a header field.
type Field struct{ Name, Value string }

// A Writer sends an answer. Each write waits at most Times.IO for the client. The
// errors are ErrClientGone and ErrClientSlow.
type Writer interface {
	// Begin sends status and fields. length is the length of the body, -1 if it
	// is not known.
	Begin(status int, fields []Field, length int64)
	// Write sends a part of the body. It may buffer it until Flush or the end of
	// the request.
	Write(p []byte) (int, error)
	Flush() error
	// Cut ends an answer in a way that shows the client that it is incomplete.
	Cut()
}

// A Handler answers requests. It is a [Gateway] or the test page. If ctx is
// canceled the request ends early. The cause is one of the errors above;
// [context.Canceled] means ErrClientGone.
type Handler interface {
	Serve(ctx context.Context, r *Request, w Writer)
}

// A Refusal is an error with which a request is answered.
type Refusal struct {
	Status int
	Reason string
	Retry  bool // send Retry-After
}

func (r *Refusal) Error() string { return r.Reason }

// Refuse answers with an error and its reason as text. If an answer has been
// begun, Refuse cuts it.
func (r *Request) Refuse(w Writer, status int, reason string) {
	r.Fail(w, &Refusal{Status: status, Reason: reason})
}

// Fail is like [Request.Refuse] for a [Refusal]. Any other error ends the request
// without an answer.
func (r *Request) Fail(w Writer, err error) {
	var f *Refusal
	if !errors.As(err, &f) {
		if r.Record.Ended = err; err == context.Canceled { // net/http sets no cause
			r.Record.Ended = ErrClientGone
		}
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
