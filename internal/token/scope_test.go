package token

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestGrantsAPI(t *testing.T) {
	tests := []struct {
		name, scope string
		want        bool
	}{
		{"only entry", "3gpp#aef-1:location", true},
		{"second name", "3gpp#aef-1:qos,location", true},
		{"second entry", "3gpp#aef-0:location;aef-1:location", true},
		{"same aef twice", "3gpp#aef-1:qos;aef-1:location", true},
		{"among other values", "openid 3gpp#aef-1:location email", true},
		{"second 3gpp value", "3gpp#aef-0:qos 3gpp#aef-1:location", true},
		{"empty", "", false},
		{"other aef", "3gpp#aef-2:location", false},
		{"other api", "3gpp#aef-1:qos", false},
		{"name begins alike", "3gpp#aef-1:location2", false},
		{"name is a beginning", "3gpp#aef-1:locatio", false},
		{"aef begins alike", "3gpp#aef-11:location", false},
		{"aef is a beginning", "3gpp#aef-:location", false},
		{"aef ends alike", "3gpp#x-aef-1:location", false},
		{"case of name", "3gpp#aef-1:Location", false},
		{"case of aef", "3gpp#AEF-1:location", false},
		{"case of prefix", "3GPP#aef-1:location", false},
		{"prefix with more", "3gppXYZ#aef-1:location", false},
		{"prefix cut", "gpp#aef-1:location", false},
		{"no prefix", "aef-1:location", false},
		{"names swapped over entries", "3gpp#aef-1:qos;aef-2:location", false},
		{"entry without names", "3gpp#aef-1", false},
		{"entry with empty names", "3gpp#aef-1:", false},
		{"entry without aef", "3gpp#:location", false},
		{"empty name in entry", "3gpp#aef-1:location,", false},
		{"finer syntax grants nothing", "3gpp#aef-1:location:read", false},
		{"finer syntax elsewhere", "3gpp#aef-1:qos:read;aef-1:location", true},
		{"junk elsewhere", "3gpp#;;junk;aef-1:location;", true},
		{"hash in name", "3gpp#aef-1:location,a#b", false},
		{"tab is no separator", "x\t3gpp#aef-1:location", false},
		{"space in front of name", "3gpp#aef-1: location", false},
		{"newline behind", "3gpp#aef-1:location\n", false},
		{"quote in entry", `3gpp#aef-1:location,"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := GrantsAPI(tt.scope, "aef-1", "location"); got != tt.want {
				t.Errorf("GrantsAPI(%q) = %v; want %v", tt.scope, got, tt.want)
			}
		})
	}
}

func TestGrantsAPINamesNothing(t *testing.T) {
	for _, args := range [][3]string{
		{"3gpp#:location", "", "location"},
		{"3gpp#aef-1:", "aef-1", ""},
		{"3gpp#aef-1:a,b", "aef-1", "a,b"},
		{"3gpp#aef-1:a;aef-2:b", "aef-1", "a;aef-2:b"},
		{"3gpp#x;aef-1:a", "x;aef-1", "a"},
		{"3gpp#aef-1:é", "aef-1", "é"},
		{"3gpp#aéf:a", "aéf", "a"},
	} {
		if GrantsAPI(args[0], args[1], args[2]) {
			t.Errorf("GrantsAPI(%q, %q, %q) = true; want false", args[0], args[1], args[2])
		}
	}
}

func TestHasScope(t *testing.T) {
	tests := []struct {
		scope, value string
		want         bool
	}{
		{"location:read", "location:read", true},
		{"openid location:read", "location:read", true},
		{"openid  location:read ", "location:read", true},
		{"location:read-more", "location:read", false},
		{"xlocation:read", "location:read", false},
		{"LOCATION:READ", "location:read", false},
		{"a b", "a b", false},
		{"", "", false},
		{"a  b", "", false},
	}
	for _, tt := range tests {
		if got := HasScope(tt.scope, tt.value); got != tt.want {
			t.Errorf("HasScope(%q, %q) = %v; want %v", tt.scope, tt.value, got, tt.want)
		}
	}
}

func TestScopeAllocatesNothing(t *testing.T) {
	scope := "openid 3gpp#aef-0:a,b;aef-1:qos,location"
	if n := testing.AllocsPerRun(100, func() { GrantsAPI(scope, "aef-1", "location"); HasScope(scope, "x") }); n != 0 {
		t.Errorf("%v allocations; want 0", n)
	}
}

var wellFormedEntry = regexp.MustCompile(`^[!$-+\--9<-\[\]-~]+:[!$-+\--9<-\[\]-~]+(,[!$-+\--9<-\[\]-~]+)*$`)

// naiveGrantsAPI follows the ABNF by regular expression.
func naiveGrantsAPI(scope, aefID, apiName string) bool {
	for _, value := range strings.Split(scope, " ") {
		if !strings.HasPrefix(value, "3gpp#") {
			continue
		}
		for _, entry := range strings.Split(value[len("3gpp#"):], ";") {
			if !wellFormedEntry.MatchString(entry) {
				continue
			}
			parts := strings.Split(entry, ":")
			if parts[0] == aefID && slices.Contains(strings.Split(parts[1], ","), apiName) {
				return true
			}
		}
	}
	return false
}

func FuzzGrantsAPI(f *testing.F) {
	f.Add("3gpp#aef-1:location,qos;aef-2:x", "aef-1", "location")
	f.Add("openid 3gpp#a:b:c;a:d", "a", "d")
	f.Add("3gpp#a:b,,c", "a", "b")
	f.Add("3gpp#a:b\n", "a", "b")
	f.Add("3gpp#a:\x80", "a", "\x80")
	f.Fuzz(func(t *testing.T, scope, aefID, apiName string) {
		got, want := GrantsAPI(scope, aefID, apiName), naiveGrantsAPI(scope, aefID, apiName)
		if got != want {
			t.Errorf("GrantsAPI(%q, %q, %q) = %v; want %v", scope, aefID, apiName, got, want)
		}
	})
}
