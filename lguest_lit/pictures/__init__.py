"A picture for each thing worth seeing: a Python module that collects its data, and a JavaScript module that draws them."
