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

const errPairs notFastCGI = "name-value pairs that end in the middle"

// eachPair takes name-value pairs apart (§ 3.4).
func eachPair(b string, f func(name, value string)) error {
	for len(b) > 0 {
		var n [2]int
		for i := range n {
			switch {
			case len(b) >= 1 && b[0]&0x80 == 0:
				n[i], b = int(b[0]), b[1:]
			case len(b) >= 4:
				n[i], b = int(b[0]&0x7f)<<24|int(b[1])<<16|int(b[2])<<8|int(b[3]), b[4:]
			default:
				return errPairs
			}
		}
		if n[0] > len(b) || n[1] > len(b)-n[0] {
			return errPairs
		}
		f(b[:n[0]], b[n[0]:n[0]+n[1]])
		b = b[n[0]+n[1]:]
	}
	return nil
}

// request makes a request of the parameters. The web server is believed: they
// are the variables. Of a repeated one the last counts.
func (c *fcgiConn) request(r *fcgiRequest) (*cgi.Request, error) {
	f := c.f
	params, all := make(map[string]string), string(r.params)
	var bad error
	err := eachPair(all, func(name, value string) {
		switch {
		case strings.Contains(value, "\x00"):
			bad = &cgi.Refusal{Status: 400, Reason: fmt.Sprintf("NUL in parameter %.64q", name)}
		case !f.filter.Allows(name), f.Form && strings.HasPrefix(name, "FORM_"): // those are the form's own
			f.drop(name)
		default:
			params[name] = value
		}
	})
	switch {
	case r.huge: // what there is of it, for the log
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
	if req.ID = params["UNIQUE_ID"]; !isVisible(req.ID, maxRequestID) { // an X-Request-Id is the client's
		req.ID = newRequestID()
		params["UNIQUE_ID"] = req.ID
	}
	if s := params["CONTENT_LENGTH"]; s != "" {
		n, err := strconv.ParseUint(s, 10, 62)
		if err != nil && bad == nil {
			bad = &cgi.Refusal{Status: 400, Reason: fmt.Sprintf("CONTENT_LENGTH is no number: %.64q", s)}
		}
		req.Length = int64(n)
	}
	delete(params, "CONTENT_LENGTH") // it is set when the body is here
	if params["GATEWAY_INTERFACE"] == "" {
		params["GATEWAY_INTERFACE"] = "CGI/1.1"
	}
	if f.Scripts != nil && !f.script(req, params) && bad == nil {
		bad = &cgi.Refusal{Status: 404, Reason: "no such script"}
	}
	for name, value := range params {
		req.Vars.Add(name, value)
	}
	if bad == nil && req.Vars.TooLarge() {
		bad = &cgi.Refusal{Status: 431, Reason: "parameters too large for a command's environment"}
	}
	l, keep := c.listener, r.keep
	req.Wire = func() *cgi.Wire {
		w := &cgi.Wire{Listener: l.Name, Unix: l.Unix, Local: l.local(), Protocol: "FastCGI", Keep: keep}
		eachPair(all, func(name, value string) { w.Fields = append(w.Fields, cgi.Field{Name: name, Value: value}) })
		return w
	}
	return req, bad
}

// script finds the program of a request: by SCRIPT_FILENAME where it lies below
// the directory, or by DOCUMENT_ROOT and SCRIPT_NAME likewise, else by what
// follows -script-name in SCRIPT_NAME. What follows its name is PATH_INFO.
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
		// Apache's ProxyPass writes the file as in a URL, and SCRIPT_NAME plain.
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

// below gives the path of a file below the directory, from its slash on.
func (f *FastCGI) below(file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, f.Config.Scripts)
	return rest, ok && strings.HasPrefix(rest, "/")
}

// squeeze writes a path as the file system takes it: web servers join an
// administrator's "/dir/" and "/name".
func squeeze(path string) string {
	for _, more := range []string{"/./", "//"} {
		for strings.Contains(path, more) {
			path = strings.ReplaceAll(path, more, "/")
		}
	}
	return path
}

// scriptFile is the file that the web server names. Apache writes it behind
// "proxy:fcgi://" and a host, and what mod_rewrite makes of it has a query;
// after the host there may be one slash or two.
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

// drop logs once that a parameter is not passed on.
func (f *FastCGI) drop(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.dropped) < maxDropped && !f.dropped[name] {
		f.dropped[name] = true
		f.Log.Info("parameter not passed on", "name", name)
	}
}

// maxDropped is how many names of dropped parameters are remembered.
const maxDropped = 256
