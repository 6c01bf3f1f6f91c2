package spawn

import (
	"bytes"
	"unsafe"
)

// metaVariables are the names that a core may give a command besides HTTP_*:
// those of RFC 3875 § 4.1 that onewake sets, and five that servers add.
// AUTH_TYPE, REMOTE_USER and REMOTE_IDENT are not among them: nothing here
// authenticates anyone, so a core that names them lies.
var metaVariables = map[string]bool{
	"CONTENT_LENGTH":    true,
	"CONTENT_TYPE":      true,
	"GATEWAY_INTERFACE": true,
	"PATH_INFO":         true,
	"QUERY_STRING":      true,
	"REMOTE_ADDR":       true,
	"REMOTE_HOST":       true,
	"REQUEST_METHOD":    true,
	"SCRIPT_NAME":       true,
	"SERVER_NAME":       true,
	"SERVER_PORT":       true,
	"SERVER_PROTOCOL":   true,
	"SERVER_SOFTWARE":   true,

	"HTTPS":          true,
	"REMOTE_PORT":    true,
	"REQUEST_SCHEME": true,
	"REQUEST_URI":    true,
	"UNIQUE_ID":      true,
}

// IsRequestVariable tells whether a variable of this name comes from requests:
// the meta-variables and all of HTTP_*. No other name is taken from a core, and
// none of these can be fixed for all requests.
func IsRequestVariable(name string) bool {
	return metaVariables[name] || len(name) >= 5 && name[:5] == "HTTP_"
}

// allowed tells whether a core may set a variable of this name.
func allowed(name []byte) bool {
	if !bytes.HasPrefix(name, []byte("HTTP_")) {
		return metaVariables[string(name)]
	}
	if len(name) == 5 || string(name) == "HTTP_PROXY" {
		return false
	}
	for _, c := range name[5:] {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// checkVars takes the variables of a start message apart and appends them to
// env. The strings are parts of b and hold as long as it does.
func checkVars(env []string, b []byte) ([]string, error) {
	if len(b) > MaxVars {
		return env, breach("%d bytes of variables", len(b))
	}
	for len(b) > 0 {
		n := bytes.IndexByte(b, 0)
		if n < 0 {
			return env, breach("variable without an end")
		}
		if n+1 > MaxVar {
			return env, breach("variable of %d bytes", n+1)
		}
		eq := bytes.IndexByte(b[:n], '=')
		if eq < 0 || !allowed(b[:eq]) {
			name := b[:n]
			if eq >= 0 {
				name = b[:eq]
			}
			return env, breach("variable %.64q", name)
		}
		env = append(env, unsafe.String(&b[0], n))
		b = b[n+1:]
	}
	return env, nil
}
