package control

import (
	"slices"
	"strings"
)

// metaVariables may be set by every request, like HTTP_*. They are those of RFC 3875
// § 4.1 and five that web servers add, but not AUTH_TYPE, REMOTE_USER and
// REMOTE_IDENT, since onewake authenticates nobody.
var metaVariables = []string{
	"CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "PATH_INFO",
	"QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REQUEST_METHOD",
	"SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL",
	"SERVER_SOFTWARE",
	"HTTPS", "REMOTE_PORT", "REQUEST_SCHEME", "REQUEST_URI", "UNIQUE_ID",
}

// fastCGIVariables are the parameters besides those above and SSL_* that nginx,
// Apache and lighttpd set by default.
var fastCGIVariables = []string{
	"AUTH_TYPE", "REMOTE_USER", "REMOTE_IDENT", "DOCUMENT_ROOT", "DOCUMENT_URI",
	"PATH_TRANSLATED", "REDIRECT_STATUS", "SCRIPT_FILENAME", "SERVER_ADDR",
}

// FilterOptions is the part of the configuration that a [Filter] depends on.
type FilterOptions struct {
	FastCGI    bool     // allow what web servers set as parameters
	Params     []string // allow these parameters too (-param)
	RemoteUser bool     // allow REMOTE_USER (-forwarded X-Remote-User)
	Scripts    bool     // allow SCRIPT_FILENAME
	Form       bool     // allow FORM_* (-form)
	Env        []string // forbid these: -env sets them for all requests
}

// Filter decides by name which variables a request may set. The core drops all
// others. The monitor takes them for a protocol violation.
type Filter struct {
	names     map[string]bool // true: allowed, false: forbidden
	ssl, form bool
}

// NewFilter makes a filter.
func NewFilter(o FilterOptions) *Filter {
	f := &Filter{names: make(map[string]bool), ssl: o.FastCGI, form: o.Form}
	allow := func(names ...string) {
		for _, name := range names {
			f.names[name] = !strings.HasPrefix(name, "LD_")
		}
	}
	allow(metaVariables...)
	allow(o.Params...)
	if o.FastCGI {
		allow(fastCGIVariables...)
	}
	if o.RemoteUser {
		allow("REMOTE_USER")
	}
	if o.Scripts {
		allow("SCRIPT_FILENAME")
	}
	for _, name := range append([]string{"", "PATH", "HTTP_PROXY"}, o.Env...) {
		f.names[name] = false
	}
	return f
}

// Allows reports whether a request may set the variable. It never allows
// HTTP_PROXY, PATH, LD_* and the variables of -env.
func (f *Filter) Allows(name string) bool {
	if allowed, ok := f.names[name]; ok {
		return allowed
	}
	const upper, lower = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", "abcdefghijklmnopqrstuvwxyz"
	chars := upper
	prefix, rest, _ := strings.Cut(name, "_")
	switch {
	case prefix == "HTTP", prefix == "SSL" && f.ssl:
	case prefix == "FORM" && f.form:
		chars = upper + lower
	default:
		return false
	}
	return rest != "" && strings.Trim(rest, chars) == ""
}

// IsRequestVariable reports whether requests set the variable in every
// configuration. Then -env cannot set it.
func IsRequestVariable(name string) bool {
	return slices.Contains(metaVariables, name) || strings.HasPrefix(name, "HTTP_")
}

// Vars collects the variables of a request in the form in which they are sent:
// each NAME=VALUE followed by NUL. The zero value is empty.
type Vars struct {
	// Filter, if not nil, is applied by Add. It drops what the monitor would
	// take for a protocol violation.
	Filter *Filter

	b        []byte
	tooLarge bool
}

// Reset empties v and keeps its memory.
func (v *Vars) Reset() { v.b, v.tooLarge = v.b[:0], false }

// Add adds one variable. Name and value must not contain NUL, nor the name "=".
func (v *Vars) Add(name, value string) {
	if v.Filter != nil && !v.Filter.Allows(name) {
		return
	}
	v.b = append(v.b, name...)
	v.b = append(v.b, '=')
	v.b = append(v.b, value...)
	v.b = append(v.b, 0)
	if len(name)+len(value)+2 > MaxVar || len(v.b) > MaxVars {
		v.tooLarge = true
	}
}

// AddHeader adds the variable of a header field: HTTP_ and the name in upper
// case, with "_" for "-" (RFC 3875 § 4.1.18).
func (v *Vars) AddHeader(name, value string) {
	v.Add("HTTP_"+strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z':
			return c - 'a' + 'A'
		case c == '-':
			return '_'
		}
		return c
	}, name), value)
}

// TooLarge reports whether v exceeds MaxVar or MaxVars.
func (v *Vars) TooLarge() bool { return v.tooLarge }

// Bytes returns the variables, each NAME=VALUE followed by NUL.
func (v *Vars) Bytes() []byte { return v.b }

// checkVars parses the variables of msgStart, checks them and appends them to
// env.
func checkVars(env []string, vars string, filter *Filter) ([]string, error) {
	if len(vars) > MaxVars {
		return env, violation("%d bytes of variables", len(vars))
	}
	for len(vars) > 0 {
		one, rest, ok := strings.Cut(vars, "\x00")
		if !ok {
			return env, violation("variable without NUL")
		}
		if len(one)+1 > MaxVar {
			return env, violation("variable of %d bytes", len(one)+1)
		}
		if name, _, ok := strings.Cut(one, "="); !ok || !filter.Allows(name) {
			return env, violation("variable %.64q", name)
		}
		env = append(env, one)
		vars = rest
	}
	return env, nil
}
