from mmqsdt.cli.export_onnx import main

if __name__ == '__main__':
    main()
