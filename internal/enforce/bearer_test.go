package enforce

import "testing"

func TestBearer(t *testing.T) {
	tests := map[string]struct {
		header []string
		token  string
		reason Reason
	}{
		"no header":                  {nil, "", NoToken},
		"an empty header":            {[]string{""}, "", NoToken},
		"a bearer token":             {[]string{"Bearer abc.def.ghi"}, "abc.def.ghi", Undecided},
		"the scheme in lower case":   {[]string{"bearer abc"}, "abc", Undecided},
		"the scheme in mixed case":   {[]string{"bEaReR abc"}, "abc", Undecided},
		"several spaces":             {[]string{"Bearer   abc"}, "abc", Undecided},
		"another scheme":             {[]string{"Basic abc"}, "", NoToken},
		"a scheme that begins alike": {[]string{"BearerX abc"}, "", NoToken},
		"a tab behind the scheme":    {[]string{"Bearer\tabc"}, "", NoToken},
		"a part of the scheme":       {[]string{"Bear"}, "", NoToken},
		"a space before the scheme":  {[]string{" Bearer abc"}, "", NoToken},
		"the scheme alone":           {[]string{"Bearer"}, "", MalformedRequest},
		"the scheme and a space":     {[]string{"Bearer "}, "", MalformedRequest},
		"two tokens":                 {[]string{"Bearer abc def"}, "abc def", Undecided},
		"a space at the end":         {[]string{"Bearer abc "}, "abc ", Undecided},
		"a list":                     {[]string{"Bearer abc,Basic def"}, "abc,Basic def", Undecided},
		"two headers":                {[]string{"Bearer abc", "Bearer abc"}, "", MalformedRequest},
		"two headers, one basic":     {[]string{"Basic abc", "Bearer abc"}, "", MalformedRequest},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			token, reason := Bearer(test.header)
			if token != test.token || reason != test.reason {
				t.Errorf("got %q, %v; want %q, %v", token, reason, test.token, test.reason)
			}
		})
	}
}
