package control

import (
	"maps"
	"strings"
)

// metaVariables are the names that a request may give its command besides
// HTTP_*, whatever the front: those of RFC 3875 § 4.1 that onewake sets, and
// five that servers add. AUTH_TYPE, REMOTE_USER and REMOTE_IDENT are not among
// them: nothing here authenticates anyone.
var metaVariables = set(
	"CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "PATH_INFO",
	"QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REQUEST_METHOD",
	"SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL",
	"SERVER_SOFTWARE",
	"HTTPS", "REMOTE_PORT", "REQUEST_SCHEME", "REQUEST_URI", "UNIQUE_ID",
)

// webServerVariables are what nginx, Apache and lighttpd set by default as
// parameters of FastCGI, besides those above and SSL_*.
var webServerVariables = []string{
	"AUTH_TYPE", "REMOTE_USER", "REMOTE_IDENT", "DOCUMENT_ROOT", "DOCUMENT_URI",
	"PATH_TRANSLATED", "REDIRECT_STATUS", "SCRIPT_FILENAME", "SERVER_ADDR",
}

func set(names ...string) map[string]bool {
	m := make(map[string]bool)
	for _, n := range names {
		m[n] = true
	}
	return m
}

// NamesOptions says what of the configuration decides which variables a
// request may set.
type NamesOptions struct {
	FastCGI    bool     // what a web server sets as parameters
	Params     []string // more of them, by name (-param)
	RemoteUser bool     // REMOTE_USER (-forwarded X-Remote-User)
	Scripts    bool     // SCRIPT_FILENAME
	Form       bool     // FORM_* (-form)
	Env        []string // names that are fixed for all requests (-env)
}

// Names is the set of variables that a request may set. The core drops others;
// to the monitor they are a breach.
type Names struct {
	known map[string]bool // those known by name: whether they may be set
	ssl   bool
	form  bool
}

// NewNames makes the set.
func NewNames(o NamesOptions) *Names {
	n := &Names{known: maps.Clone(metaVariables), ssl: o.FastCGI, form: o.Form}
	allow := func(names ...string) {
		for _, name := range names {
			n.known[name] = !strings.HasPrefix(name, "LD_")
		}
	}
	allow(o.Params...)
	if o.FastCGI {
		allow(webServerVariables...)
	}
	if o.RemoteUser {
		allow("REMOTE_USER")
	}
	if o.Scripts {
		allow("SCRIPT_FILENAME")
	}
	for _, name := range append([]string{"", "PATH", "HTTP_PROXY"}, o.Env...) {
		n.known[name] = false
	}
	return n
}

// Allow tells whether a request may set a variable of this name. Never
// HTTP_PROXY, PATH and LD_*, nor what -env sets.
func (n *Names) Allow(name string) bool {
	if allowed, ok := n.known[name]; ok {
		return allowed
	}
	if rest, ok := strings.CutPrefix(name, "HTTP_"); ok {
		return isName(rest, false)
	}
	if rest, ok := strings.CutPrefix(name, "SSL_"); ok {
		return n.ssl && isName(rest, false)
	}
	if rest, ok := strings.CutPrefix(name, "FORM_"); ok {
		return n.form && isName(rest, true)
	}
	return false
}

// isName tells whether s is made of capital letters, digits and "_", and of
// small letters if lower says so.
func isName(s string, lower bool) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && !(lower && 'a' <= c && c <= 'z') {
			return false
		}
	}
	return s != ""
}

// IsRequestVariable tells whether a variable of this name comes from requests
// whatever the configuration, so that it cannot be fixed for all of them
// (-env).
func IsRequestVariable(name string) bool {
	return metaVariables[name] || strings.HasPrefix(name, "HTTP_")
}
