package front

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/control"
)

// request makes a request from the parameters. They are the variables, because
// the web server is trusted. If a name is repeated the last value counts.
func (c *fcgiConn) request(r *fcgiRequest) (*cgi.Request, error) {
	f := c.f
	params, all := make(map[string]string), string(r.params)
	var bad error
	err := eachPair(all, func(name, value string) {
		switch {
		case strings.Contains(value, "\x00"):
			bad = &cgi.Refusal{Status: 400, Reason: fmt.Sprintf("NUL in parameter %.64q", name)}
		case !f.filter.Allows(name), f.Form && strings.HasPrefix(name, "FORM_"): // -form sets these
			f.drop(name)
		default:
			params[name] = value
		}
	})
	switch {
	case r.tooLarge: // use what there is for the log
		bad = &cgi.Refusal{Status: 431, Reason: "parameters larger than 131,072 bytes"}
	case err != nil:
		return nil, err
	}
	req := &cgi.Request{
		Method: params["REQUEST_METHOD"], Target: params["REQUEST_URI"], Peer: c.peer, Client: params["REMOTE_ADDR"],
		Query: params["QUERY_STRING"], Type: params["CONTENT_TYPE"], Length: -1, Vars: &control.Vars{Filter: f.filter},
	}
	req.Record.Received = time.Now()
	if req.Target == "" {
		req.Target = params["SCRIPT_NAME"] + params["PATH_INFO"]
	}
	if req.ID = params["UNIQUE_ID"]; !isVisible(req.ID, maxRequestID) { // an X-Request-Id may be the client's
		req.ID = newRequestID()
		params["UNIQUE_ID"] = req.ID
	}
	if s := params["CONTENT_LENGTH"]; s != "" {
		n, err := strconv.ParseUint(s, 10, 62)
		if err != nil && bad == nil {
			bad = &cgi.Refusal{Status: 400, Reason: fmt.Sprintf("CONTENT_LENGTH is not a number: %.64q", s)}
		}
		req.Length = int64(n)
	}
	delete(params, "CONTENT_LENGTH") // package cgi adds it when it has read the body
	if params["GATEWAY_INTERFACE"] == "" {
		params["GATEWAY_INTERFACE"] = "CGI/1.1"
	}
	if f.Scripts != nil && !f.script(req, params) && bad == nil {
		bad = &cgi.Refusal{Status: 404, Reason: "no such script"}
	}
	for name, value := range params {
		req.Vars.Add(name, value)
	}
	l, keep := c.listener, r.keep
	req.Wire = func() *cgi.Wire {
		w := l.wire("FastCGI", keep)
		eachPair(all, func(name, value string) { w.Fields = append(w.Fields, cgi.Field{Name: name, Value: value}) })
		return w
	}
	return req, bad
}

// script finds the script of a request, and sets SCRIPT_FILENAME, SCRIPT_NAME and
// PATH_INFO. It uses SCRIPT_FILENAME, or DOCUMENT_ROOT and SCRIPT_NAME, if that is
// below the directory, else SCRIPT_NAME without -script-name.
func (f *FastCGI) script(req *cgi.Request, params map[string]string) bool {
	file := scriptFile(params)
	below, ok := f.below(file)
	if !ok {
		below, ok = f.below(squeeze(file))
	}
	if !ok {
		below, _ = strings.CutPrefix(params["SCRIPT_NAME"], f.ScriptName)
	}
	name, info, ok := f.Scripts.Find(below)
	if !ok {
		name, info, ok = f.Scripts.Find(squeeze(below))
	}
	if strings.Contains(below, "%") && (!ok || !strings.HasSuffix(params["SCRIPT_NAME"], info)) {
		// Apache's ProxyPass percent-encodes the file, but not SCRIPT_NAME.
		plain, err := url.PathUnescape(below)
		n, i, found := f.Scripts.Find(plain)
		if err == nil && found && strings.HasSuffix(params["SCRIPT_NAME"], i) {
			name, info, ok = n, i, true
		}
	}
	if !ok {
		return false
	}
	req.Script = name
	params["SCRIPT_FILENAME"] = f.Config.Scripts + "/" + name
	if info != "" {
		params["PATH_INFO"] = info
		params["SCRIPT_NAME"] = strings.TrimSuffix(params["SCRIPT_NAME"], info)
	}
	return true
}

// below returns the path of a file relative to the directory, with a slash.
func (f *FastCGI) below(file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, f.Config.Scripts)
	return rest, ok && strings.HasPrefix(rest, "/")
}

// squeeze removes duplicate slashes and "/./": web servers join "/dir/" and
// "/name".
func squeeze(path string) string {
	for _, more := range []string{"/./", "//"} {
		for strings.Contains(path, more) {
			path = strings.ReplaceAll(path, more, "/")
		}
	}
	return path
}

// scriptFile returns the file that the web server names. Apache precedes it with
// "proxy:fcgi://", a host and one or two slashes; mod_rewrite appends the query.
func scriptFile(params map[string]string) string {
	file := params["SCRIPT_FILENAME"]
	if file == "" {
		return params["DOCUMENT_ROOT"] + params["SCRIPT_NAME"]
	}
	if rest, ok := strings.CutPrefix(file, "proxy:fcgi://"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		file = "/" + strings.TrimPrefix(rest, "/")
		if q := params["QUERY_STRING"]; q != "" {
			file = strings.TrimSuffix(file, "?"+q)
		}
	}
	return file
}

// drop logs the first time that a parameter is not passed on.
func (f *FastCGI) drop(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.dropped) < maxDropped && !f.dropped[name] {
		f.dropped[name] = true
		f.Log.Info("parameter not passed on", "name", name)
	}
}

// maxDropped is the largest number of names in FastCGI.dropped.
const maxDropped = 256
