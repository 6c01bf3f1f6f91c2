package front

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/control"
)

const (
	// maxRequestLine is the longest request line in bytes, without its end.
	maxRequestLine = 64 << 10
	// maxHead is how much of a head is read, in bytes; net/http adds 4 KiB.
	maxHead = 128 << 10
)

const longLine = "request line longer than 65,536 bytes"

// HTTP is the front that speaks HTTP/1.1, by net/http.
type HTTP struct {
	Service
	Software string      // SERVER_SOFTWARE
	ErrorLog *log.Logger // net/http's own troubles

	filter *control.Filter
	server http.Server
}

type connKey struct{}

// Serve serves a listener until it is closed.
func (h *HTTP) Serve(l *Listener) error { return h.server.Serve(l) }

// Prepare is to be called once, before Serve.
func (h *HTTP) Prepare() {
	h.filter = h.Filter()
	h.server = http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            h.Times.Header,
		IdleTimeout:                  h.Times.Idle,
		MaxHeaderBytes:               maxHead,
		DisableGeneralOptionsHandler: true,
		Protocols:                    new(http.Protocols),
		ErrorLog:                     h.ErrorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(nc net.Conn, s http.ConnState) {
			switch s {
			case http.StateActive:
				nc.(*conn).setBusy(true)
			case http.StateIdle:
				nc.(*conn).setBusy(false)
			}
		},
	}
	h.server.Protocols.SetHTTP1(true)
}

// ServeHTTP answers one request.
func (h *HTTP) ServeHTTP(hw http.ResponseWriter, hr *http.Request) {
	c := hr.Context().Value(connKey{}).(*conn)
	r := &cgi.Request{Method: hr.Method, Target: hr.RequestURI, Peer: c.peer, Query: hr.URL.RawQuery, Type: hr.Header.Get("Content-Type")}
	r.Record.Received = time.Now()
	w := &httpWriter{h: h, c: http.NewResponseController(hw), w: hw, r: r, last: hr.ContentLength < 0}
	m := &meta{HTTP: h, hr: hr, r: r, listener: c.listener}
	r.Vars = &control.Vars{Filter: h.filter}
	if err := m.own(); err != nil {
		w.unread = hr.ContentLength != 0
		r.Fail(w, err)
	} else {
		if hr.ContentLength != 0 || hr.Header["Content-Length"] != nil {
			r.Body, r.Length = &httpBody{w: w, Reader: hr.Body}, hr.ContentLength
			w.unread = hr.ContentLength != 0
		}
		r.Redirect, r.Wire = m.redirect, m.wire
		h.Handler.Serve(hr.Context(), r, w)
	}
	if h.Done != nil {
		h.Done(r)
	}
	if r.Record.Cut {
		if r.Record.Status != 0 {
			w.c.Flush() // what there is of the answer shows that it is not whole
		}
		panic(http.ErrAbortHandler)
	}
	w.c.SetWriteDeadline(time.Now().Add(h.Times.IO)) // for what net/http still writes
	if w.unread {
		w.drain(hr)
	}
}

// drain sends the answer and throws away what comes yet of a body that was not
// wanted: a client that is still sending may take a connection that is closed
// for a failure, and never look at the answer (RFC 9112 § 9.6).
func (w *httpWriter) drain(hr *http.Request) {
	wait := w.h.Times.IO
	if hr.Header.Get("Expect") != "" { // it has asked before it sends
		wait = w.h.Times.Grace
	}
	w.c.Flush()
	w.c.SetReadDeadline(time.Now().Add(wait))
	io.Copy(io.Discard, hr.Body)
}

// httpBody is a body on its way from the client, which has Times.IO for each
// part. From its end on the reads are net/http's own: it watches for a client
// that goes away, and a deadline would look like one.
type httpBody struct {
	w *httpWriter
	io.Reader
}

func (b *httpBody) Read(p []byte) (int, error) {
	if !b.w.unread {
		return 0, io.EOF
	}
	b.w.c.SetReadDeadline(time.Now().Add(b.w.h.Times.IO))
	n, err := b.Reader.Read(p)
	switch {
	case err == nil:
	case err == io.EOF:
		b.w.unread = false
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = cgi.ErrBodyStalled
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = cgi.ErrBodyCut
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed):
		err = cgi.ErrClientGone
	default:
		err = cgi.ErrBodyBad
	}
	return n, err
}

// httpWriter writes an answer.
type httpWriter struct {
	h *HTTP
	c *http.ResponseController
	w http.ResponseWriter
	r *cgi.Request

	// last ends the connection with the answer. A chunked body does: should
	// somebody have seen another end of it, nothing can hide behind it
	// (RFC 9112 § 11.2). So does one of which something has not come yet, which
	// net/http would wait for.
	last   bool
	unread bool
}

func (w *httpWriter) Begin(status int, fields []cgi.Field, length int64) {
	h := w.w.Header()
	h["Content-Type"] = nil // none is guessed
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	if length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	if w.last || w.unread || w.h.Gate.ending() {
		h.Set("Connection", "close")
	}
	w.r.Record.Status = status
	w.w.WriteHeader(status)
}

func (w *httpWriter) Write(p []byte) (int, error) {
	w.c.SetWriteDeadline(time.Now().Add(w.h.Times.IO))
	n, err := w.w.Write(p)
	if w.r.Method != http.MethodHead {
		w.r.Record.Bytes += int64(n)
	}
	return n, clientError(err)
}

func (w *httpWriter) Flush() error {
	w.c.SetWriteDeadline(time.Now().Add(w.h.Times.IO))
	return clientError(w.c.Flush())
}

func (w *httpWriter) Cut() { w.r.Record.Cut = true }

// clientError is why a client has not got a part of its answer.
func clientError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cgi.ErrClientSlow
	}
	return cgi.ErrClientGone
}

// checkTarget refuses what net/http accepts and no CGI program is to see.
func checkTarget(hr *http.Request) error {
	if len(hr.Method)+len(hr.RequestURI)+len(hr.Proto)+2 > maxRequestLine {
		return &cgi.Refusal{Status: 414, Reason: longLine}
	}
	origin := strings.HasPrefix(hr.RequestURI, "/")
	absolute := hr.URL.Scheme == "http" || hr.URL.Scheme == "https"
	if hr.Method == http.MethodConnect || !origin && !(absolute && hr.URL.Host != "") {
		return &cgi.Refusal{Status: 400, Reason: "target is neither a path nor an http or https URL"}
	}
	if hr.Host != "" && !isHost(hr.Host) {
		return &cgi.Refusal{Status: 400, Reason: "Host is not a host"}
	}
	if strings.ContainsRune(hr.URL.Path, 0) {
		return &cgi.Refusal{Status: 400, Reason: "NUL in the path"}
	}
	return nil
}
