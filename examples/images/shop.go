package images

import "context"

// Shop returns all images of examples/shop. dir is the module's directory.
func (c Cache) Shop(ctx context.Context, dir string) ([]Image, error) {
	debian, err := c.Debian(ctx, Postgres(), Redis(), Nginx())
	if err != nil {
		return nil, err
	}
	programs, err := c.Go(ctx, dir,
		shopProgram("web", "EXPOSE 8080"), shopProgram("worker"), shopProgram("migrate"))
	if err != nil {
		return nil, err
	}
	return append(debian, programs...), nil
}

func shopProgram(name string, changes ...string) Program {
	return Program{
		Ref:     "shop-" + name,
		Path:    "/" + name,
		Package: "./examples/shop/" + name,
		Changes: append([]string{`ENTRYPOINT ["/` + name + `"]`, "USER app"}, changes...),
	}
}
