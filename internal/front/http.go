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
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/control"
)

const (
	// maxRequestLine is the largest size of a request line in bytes, without the
	// line end.
	maxRequestLine = 64 << 10
	// maxHead is the largest size of a header in bytes; net/http adds 4 KiB.
	maxHead = 128 << 10
)

const longLine = "request line longer than 65,536 bytes"

// HTTP is a server for HTTP/1.1, on top of net/http.
type HTTP struct {
	Service
	Software string      // SERVER_SOFTWARE
	ErrorLog *log.Logger // for net/http

	filter *control.Filter
	server http.Server
}

type connKey struct{}

// Serve serves a listener until it is closed.
func (h *HTTP) Serve(l *Listener) error { return h.server.Serve(l) }

// Prepare must be called once before Serve.
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
	r := &cgi.Request{
		Method: hr.Method, Target: hr.RequestURI, Peer: c.peer, Query: hr.URL.RawQuery, Type: hr.Header.Get("Content-Type"),
		Vars: &control.Vars{Filter: h.filter}, Record: cgi.Record{Received: time.Now()},
	}
	w := &httpWriter{h: h, c: c, w: hw, r: r, unread: hr.ContentLength != 0, last: hr.ContentLength < 0}
	m := &meta{HTTP: h, hr: hr, r: r, listener: c.listener}
	r.Redirect, r.Wire = m.redirect, m.wire
	if hr.ContentLength != 0 || hr.Header["Content-Length"] != nil {
		r.Body, r.Length = &httpBody{w: w, Reader: hr.Body}, hr.ContentLength
	}
	h.serve(hr.Context(), r, w, m.init())
	if r.Record.Cut {
		if r.Record.Status != 0 {
			w.Flush() // so that the client gets a part and sees that it is incomplete
		}
		panic(http.ErrAbortHandler)
	}
	if w.unread {
		w.discardBody(hr)
	}
}

// discardBody sends the answer and reads the rest of the body. A client that is
// still sending when the connection is closed may not read the answer (RFC 9112
// § 9.6).
func (w *httpWriter) discardBody(hr *http.Request) {
	limit := w.h.Times.IO
	if hr.Header.Get("Expect") != "" { // then the client does not send it
		limit = w.h.Times.Grace
	}
	w.Flush()
	w.c.SetReadDeadline(time.Now().Add(limit))
	io.Copy(io.Discard, hr.Body)
}

// httpBody reads a body. Each read takes at most Times.IO. After the end it no
// longer sets a deadline: net/http then reads to see whether the client closes
// the connection, and a timeout would look like that.
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

// httpWriter is the [cgi.Writer] of a request.
type httpWriter struct {
	h *HTTP
	c *conn
	w http.ResponseWriter
	r *cgi.Request

	// The answer is the last one on its connection if the body is chunked, or
	// not read to its end. If another server sees a different end of a chunked
	// body, it cannot smuggle a request (RFC 9112 § 11.2).
	last, unread bool
}

func (w *httpWriter) Begin(status int, fields []cgi.Field, length int64) {
	h := w.w.Header()
	h["Content-Type"] = nil // net/http must not guess it
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	if length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	if w.last || w.unread || w.h.Gate.isClosing() {
		h.Set("Connection", "close")
	}
	w.r.Record.Status = status
	w.w.WriteHeader(status)
}

func (w *httpWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if w.r.Method != http.MethodHead {
		w.r.Record.Bytes += int64(n)
	}
	return n, clientError(err)
}

func (w *httpWriter) Flush() error { return clientError(http.NewResponseController(w.w).Flush()) }

func (w *httpWriter) Cut() { w.r.Record.Cut = true }

// clientError converts an error of a write.
func clientError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cgi.ErrClientSlow
	}
	return cgi.ErrClientGone
}
